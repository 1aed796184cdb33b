"""Whole-number sums worked out in small steps: tens and ones apart, so that the tables are all there is to know.

`47 + 38 = 40 + 30 + 7 + 8 = 70 + 15 = 85`. Numbers are 0..100 and a second factor or a divisor is at most 10. This
file does not know corpora.
"""

TABLE = 10  # the tables of multiplication go this far; those of addition reach 9 + 9


def is_basic(x: int, op: str, y: int) -> bool:
    """Whether `x op y` is in the tables or joins a round ten: it is answered at once, with nothing between."""
    if op == "+":
        return x % 10 == 0 or y % 10 == 0 or max(x, y) < 10
    if op == "-":
        return y % 10 == 0 or (x <= 18 and y < 10)
    factor = x if op == "*" else x // y
    return factor <= TABLE or factor % 10 == 0


def write_steps(x: int, op: str, y: int, result: int) -> str:
    """`x op y = ... = result`, with what lies between where it is not basic."""
    between = [] if is_basic(x, op, y) else SPLIT[op](x, y)
    return " = ".join([f"{x} {op} {y}", *between, str(result)])


def write_product_steps(x: int, y: int, z: int, w: int) -> str:
    """`x * y + z * w = ... = result` for a round ten `x`: like the chain of a product beyond the tables."""
    return " = ".join([*_two_products(x, y, z, w), str(x * y + z * w)])


def _plus(x: int, y: int) -> list[str]:
    (a, b), (c, d) = divmod(x, 10), divmod(y, 10)
    tens = [str(10 * t) for t in (a, c) if t]
    return [" + ".join([*tens, str(b), str(d)]), f"{10 * (a + c)} + {b + d}"]


def _minus(x: int, y: int) -> list[str]:
    (a, b), (c, d) = divmod(x, 10), divmod(y, 10)
    if b < d:
        a, b = a - 1, b + 10
    tens = f"{10 * a} - {10 * c}" if c else f"{10 * a}"
    return [f"{tens} + {b} - {d}", f"{10 * (a - c)} + {b - d}"]


def _times(x: int, y: int) -> list[str]:
    a, b = divmod(x, 10)
    return _two_products(10 * a, y, b, y)


def _two_products(x: int, y: int, z: int, w: int) -> list[str]:
    tens, (a, b) = x * y, divmod(z * w, 10)
    links = [f"{x} * {y} + {z} * {w}", f"{tens} + {z * w}"]
    if a < 2 or not b:
        return links
    return [*links, f"{tens} + {10 * a} + {b}", f"{tens + 10 * a} + {b}"]


def _over(x: int, y: int) -> list[str]:
    a, b = divmod(x // y, 10)
    return [f"{10 * a * y} / {y} + {b * y} / {y}", f"{10 * a} + {b}"]


SPLIT = {"+": _plus, "-": _minus, "*": _times, "/": _over}
