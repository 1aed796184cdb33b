"""Arithmetic word problems with worked steps, made from a grammar of clauses: an opening, events, a closing question.

Everything is small and whole: quantities 2..60, every result 1..100, one to three steps. A quarter of the training rows
are bare sums ("What is 47 + 38?"), a third of those of two products. A template is a choice of clauses; an eighth of
the templates is held out, and so is an eighth of the calculations that lie beyond the tables. A held-out problem has a
held-out template (a new combination of known clauses) and begins with a held-out calculation (a sum, difference,
product or quotient that no training problem works out). Names, things and tables are shared. It
is a test of recombination inside one grammar, not of English. This file does not know tokens or models.
"""

import functools
import random
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from vishwamai.data import arithmetic
from vishwamai.data.rows import Problem, Row

HELD_OUT_ONE_IN = 8
N_HELD_OUT = 300
MAX_RESULT = 100
BARE = 1 / 4  # of the rows of training
PRODUCTS = 1 / 3  # of those
TRIES = 200  # draws of numbers for one template before another is taken
LARGEST = {"": 60, "+": 40, "-": 40, "*": arithmetic.TABLE, "/": arithmetic.TABLE}
LARGEST_FACTOR = 25  # of a problem that begins with a product

HE, SHE = ("he", "him"), ("she", "her")
PEOPLE = {
    **dict.fromkeys("Tom Sam Ben Max Ravi Omar Leo Paul Ken Arun Jack Hugo".split(), HE),
    **dict.fromkeys("Mia Anna Sara Lily Nina Priya Zoe Emma Rosa Lena Asha Ruth".split(), SHE),
}
THINGS = """apples pears books pens stamps cards shells stickers marbles beads balls buttons cookies eggs flowers stones
toys cups lemons nuts pencils plums ribbons maps""".split()


class Clause(NamedTuple):
    """A sentence and the operation that it brings (`""`: none). `{a}` is a first quantity, `{b}` the operation's."""

    op: str
    text: str


OPENINGS = (
    Clause("", "{N} has {a} {things}."),
    Clause("", "{N} starts with {a} {things}."),
    Clause("", "{N} owns {a} {things}."),
    Clause("", "In the morning {N} has {a} {things}."),
    Clause("", "{N} has a box with {a} {things}."),
    Clause("", "{N} counts {a} {things} in a bag."),
    Clause("*", "{N} has {a} boxes with {b} {things} in each."),
    Clause("*", "{N} buys {a} bags of {b} {things}."),
    Clause("*", "{N} fills {a} jars with {b} {things} each."),
    Clause("*", "{N} has {a} shelves that hold {b} {things} each."),
    Clause("+", "{M} has {a} {things}. {N} has {b} more than {M}."),
    Clause("-", "{M} has {a} {things}. {N} has {b} fewer than {M}."),
    Clause("*", "{M} has {a} {things}. {N} has {b} times as many as {M}."),
)
EVENTS = (
    Clause("+", "{P} buys {b} more."),
    Clause("+", "{P} finds {b} more."),
    Clause("+", "{F} gives {o} {b} more."),
    Clause("+", "Then {p} gets {b} from {F}."),
    Clause("+", "{P} wins {b} in a game."),
    Clause("-", "{P} gives {b} to {F}."),
    Clause("-", "{P} loses {b} of them."),
    Clause("-", "{P} sells {b} at the market."),
    Clause("-", "Then {b} are taken away."),
    Clause("-", "{P} leaves {b} at school."),
)
CLOSINGS = (
    Clause("", "How many {things} does {N} have now?"),
    Clause("", "How many {things} does {N} have in the end?"),
    Clause("", "How many {things} are there for {N} now?"),
    Clause("", "What is the number of {things} that {N} has now?"),
    Clause("/", "{P} shares them equally among {b} friends. How many {things} does each friend get?"),
    Clause("/", "{P} puts them into {b} equal piles. How many {things} are in each pile?"),
    Clause("/", "{P} packs {b} {things} in each box. How many boxes does {p} need?"),
    Clause("*", "{P} sells each of them for {b} dollars. How many dollars does {p} get?"),
    Clause("*", "Each one costs {b} dollars. How many dollars do they cost together?"),
    Clause("*", "Each one weighs {b} grams. How many grams do they weigh together?"),
)

Template = tuple[Clause, ...]

NAME, COUNT = "[A-Z][a-z]+", "[0-9]{1,9}"
BLANKS = dict.fromkeys("NMFP", NAME) | dict.fromkeys(("p", "o", "things"), "[a-z]+")
BLANKS |= {"a": f"(?P<a>{COUNT})", "b": f"(?P<b>{COUNT})"}
MOST_EVENTS = 9  # in a problem that is read


class StoryStep(NamedTuple):
    """`before op number = result`."""

    before: int
    op: str
    number: int
    result: int


def is_held_out_template(template: Template) -> bool:
    """Whether problems of this combination of clauses are kept out of training."""
    return _one_in_eight(" ".join(clause.text for clause in template))


def is_held_out_step(step: StoryStep) -> bool:
    """Whether no training problem does this calculation, in either order: the tables are never held out."""
    x, y = sorted((step.before, step.number))
    return not arithmetic.is_basic(step.before, step.op, step.number) and _one_in_eight(f"{x} {y}")


def _one_in_eight(text: str) -> bool:
    return zlib.crc32(text.encode()) % HELD_OUT_ONE_IN == 0


def row(rng: random.Random, split: str = "train") -> Row:
    """A random problem and its worked steps; `split` is "train" or "held_out". Some rows of training are bare sums."""
    if split == "train" and rng.random() < BARE:
        text, chain = bare_products(rng) if rng.random() < PRODUCTS else bare_sum(rng)
        return Row(((text, 0.0), (_completion([chain]), 1.0)))
    text, steps = problem(rng, split)
    return Row(((text, 0.0), (_write_steps(steps), 1.0)))


def problem(rng: random.Random, split: str) -> tuple[str, list[StoryStep]]:
    """The text of a random problem of a split, and the steps that solve it."""
    while True:
        template = _template(rng)
        if is_held_out_template(template) == (split == "train"):
            continue
        for _ in range(TRIES):
            steps = _draw(template, rng)
            if steps is not None and _is_in_split(steps, split):
                return _fill(template, steps, rng), steps


def bare_sum(rng: random.Random) -> tuple[str, str]:
    """A calculation without a story, never a held-out one: a third joins tens, which few stories lead to."""
    while True:
        op, scale = rng.choice("+-*/"), rng.choice((1, 1, 10))
        if op in "+-":
            x, y = scale * rng.randint(1, MAX_RESULT // scale), scale * rng.randint(1, MAX_RESULT // scale)
        else:
            x, y = rng.randint(1, MAX_RESULT), rng.randint(1, arithmetic.TABLE)
        result = _apply(x, op, y)
        if result is not None and 1 <= result <= MAX_RESULT and not is_held_out_step(StoryStep(x, op, y, result)):
            return f"What is {x} {op} {y}?", arithmetic.write_steps(x, op, y, result)


def bare_products(rng: random.Random) -> tuple[str, str]:
    """Tens and ones times different factors: the tables and the sums that a product's chain needs, in that place.

    Equal factors would be the chain of a product that may be held out.
    """
    while True:
        tens, ones = 10 * rng.randint(1, 9), rng.randint(1, 9)
        x, y = rng.sample(range(2, arithmetic.TABLE + 1), 2)
        if tens * x + ones * y <= MAX_RESULT:
            return f"What is {tens} * {x} + {ones} * {y}?", arithmetic.write_product_steps(tens, x, ones, y)


def _template(rng: random.Random) -> Template:
    """One, two or three steps with equal chance."""
    wanted = rng.randint(1, 3)
    while True:
        ends = rng.choice(OPENINGS), rng.choice(CLOSINGS)
        n_events = wanted - sum(bool(clause.op) for clause in ends)
        if 0 <= n_events <= 2:
            return (ends[0], *rng.sample(EVENTS, n_events), ends[1])


def _is_in_split(steps: list[StoryStep], split: str) -> bool:
    held_out = [is_held_out_step(step) for step in steps]
    return not any(held_out) if split == "train" else held_out[0]


def _draw(template: Template, rng: random.Random) -> list[StoryStep] | None:
    """Random quantities for a template, or None where they lead out of bounds."""
    ops = [clause.op for clause in template if clause.op]
    value, steps = rng.randint(2, LARGEST_FACTOR if ops[0] == "*" else LARGEST[""]), []
    for op in ops:
        number = rng.randint(2, LARGEST[op])
        result = _apply(value, op, number)
        if result is None or not 1 <= result <= MAX_RESULT:
            return None
        steps.append(StoryStep(value, op, number, result))
        value = result
    return steps


def _apply(value: int, op: str, number: int) -> int | None:
    if op == "/":
        return value // number if number and value % number == 0 else None
    return {"+": value + number, "-": value - number, "*": value * number}[op]


def _fill(template: Template, steps: list[StoryStep], rng: random.Random) -> str:
    person, other, friend = rng.sample(list(PEOPLE), 3)
    subject, object_ = PEOPLE[person]
    words = {"N": person, "M": other, "F": friend, "p": subject, "P": subject.capitalize(), "o": object_}
    words |= {"things": rng.choice(THINGS), "a": str(steps[0].before)}
    numbers = (step.number for step in steps)
    filled = (clause.text.format(**words, b=next(numbers) if clause.op else "") for clause in template)
    return " ".join(filled)


def _write_steps(steps: list[StoryStep]) -> str:
    return _completion([arithmetic.write_steps(*step) for step in steps])


def _completion(chains: list[str]) -> str:
    """The chains, a line each, and the answer that the last one ends with."""
    lines = "".join(f"\n {chain}" for chain in chains)
    return f"{lines}\n Answer: {chains[-1].split()[-1]}"


def steps_of(text: str) -> list[StoryStep] | None:
    """The steps that solve a problem of this grammar, whoever wrote it; None for any other text."""
    value, steps = 0, []
    for kind in ("opening", *["event"] * MOST_EVENTS, "closing"):
        found = max(_matches(kind, text), key=lambda pair: pair[1].end(), default=None)
        if found is None and kind == "event":
            continue
        if found is None:
            return None
        op, match = found
        numbers = match.groupdict()
        value = int(numbers["a"]) if "a" in numbers else value
        if op:
            result = _apply(value, op, int(numbers["b"]))
            if result is None:
                return None
            steps.append(StoryStep(value, op, int(numbers["b"]), result))
            value = result
        text = text[match.end() :].lstrip()
    return steps if steps and not text else None


def _matches(kind: str, text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """The clauses of a kind that a text begins with."""
    for op, pattern in _patterns()[kind]:
        if match := pattern.match(text):
            yield op, match


@functools.cache
def _patterns() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    kinds = {"opening": OPENINGS, "event": EVENTS, "closing": CLOSINGS}
    texts = {kind: [(c.op, c.text.replace(".", r"\.").replace("?", r"\?")) for c in kinds[kind]] for kind in kinds}
    return {kind: [(op, re.compile(text.format(**BLANKS))) for op, text in texts[kind]] for kind in kinds}


def grade(answer: int, completion: str) -> bool:
    """Whether the last line of a completion is `Answer:` and exactly this number (the steps are not judged)."""
    match = re.fullmatch(r"Answer: ([0-9]{1,9})\.?", completion.strip().split("\n")[-1].strip())
    return match is not None and int(match[1]) == answer


def held_out() -> list[Problem]:
    """300 held-out problems, always the same; kind `word_problems.1` to `.3` by the number of steps."""
    rng = random.Random("held-out word problems")
    return [_problem(*problem(rng, "held_out")) for _ in range(N_HELD_OUT)]


def _problem(text: str, steps: list[StoryStep]) -> Problem:
    judge = functools.partial(grade, steps[-1].result)
    return Problem(text, judge, f"word_problems.{len(steps)}", _write_steps(steps))
