r"""Numbers as people, models and TeX write them: made plain, found in prose, and valued exactly.

`2\frac{1}{2}`, `1{,}234`, `1.5e3`, `2 \times 10^{3}`, `1 234`, `7½` and `2.5 million` are one number each. What could
be two of them, or none, has no value: `1.234,5`, `5-10`, `5:30`, `2023-05-14`, `3x`, `5 or 6`.
"""

import re
import unicodedata
from fractions import Fraction

from vishwamai.errors import DataError
from vishwamai.reasoning import exact

MAX_CHARACTERS = 200  # of what is read as a number
MAX_LINE = 1000  # characters at the end of a line that are looked through for its last number
MAX_NESTING = 8  # of braces in TeX
CURRENCY = "[$€£¥₹]"
WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
ONES += "seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SPELLED = {word: i for i, word in enumerate(ONES)} | {word: 10 * i for i, word in enumerate(TENS, 2)}
SPELLED |= {f"{ten}{mark}{one}": SPELLED[ten] + i for ten in TENS for i, one in enumerate(ONES[:10]) for mark in "- "}

SIGNS = str.maketrans(
    dict.fromkeys("−–‐‑", "-")
    | dict.fromkeys("×·∙⋅", "*")
    | dict.fromkeys("\u00a0\u2009\u202f", " ")
    | {"÷": "/", "⁄": "/", "≤": "<=", "≥": ">=", "≈": "~", "∞": "inf", "π": "pi", "√": r"\sqrt "}
)
COMMANDS: dict[str, str] = dict.fromkeys(("left", "right", "displaystyle", "big", "Big", "bigl", "bigr"), "")
COMMANDS |= dict.fromkeys(("quad", "qquad"), " ") | dict.fromkeys(("circ", "degree"), "°")
COMMANDS |= {"times": "*", "cdot": "*", "div": "/", "le": "<=", "leq": "<=", "ge": ">=", "geq": ">=", "approx": "~"}
COMMANDS |= {"pi": "pi", "infty": "inf", "in": "∈", "pm": "±", "cup": "∪", "cap": "∩"}
ROOT = r"sqrt\(\w+\)"
TEX = (
    (r"\{,\}", ","),  # 1{,}234
    (r"\\!|\\[()\[\]]", ""),
    (r"(?<=[0-9{}])~(?=[a-zA-Z\\])|\\[,;: ]", " "),  # 18~\mathrm{~cm}
    (r"\\([%$€£&#_])", r"\1"),
    # 2\frac12 is 2 1/2
    (rf"\\[dtc]?frac\s*(?:\{{(-?\w+|-?\w* ?{ROOT})\}}|(\w))\s*(?:\{{(\w+|{ROOT})\}}|(\w))", r" \1\2/\3\4"),
    (r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" ((\1)/(\2))"),
    (r"\\sqrt\s*(?:\{([^{}]*)\}|\(([^()]*)\)|([0-9]+|[a-zA-Z]))", r"sqrt(\1\2\3)"),
    (r"\\(?:text|mathrm|mbox|operatorname|textbf|mathbf|textit|mathit)\s*\{([^{}]*)\}", r" \1"),
    (r"([\^_])\s*\{\s*(-?\w+|°)\s*\}", r"\1\2"),  # 10^{3}
    (r"\^\s*\{([^{}]*)\}", r"^(\1)"),
    (r"\^ ?(?=°|(?<=[0-9]\^)(?:st|nd|rd|th)\b)", ""),  # 90^\circ, 3^{\text{rd}}
)

# What may be one number: with a separator of any kind, a date or a time, it is taken whole, for a part would be wrong.
RUN = r"(?:[0-9]{1,4}-[0-9]{1,2}-[0-9]{1,4}|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+(?:[.,:'][0-9]+)*|\.[0-9]+)(?![0-9])"
POWER = r"(?:[eE][-+]?[0-9]+|(?: ?[*xX] ?10)? ?\^ ?\(?-?[0-9]+\)?)"
NUMBER = re.compile(
    rf"(?:(?<![\w)%])-)?(?:{CURRENCY}-?)?(?:[0-9]+ (?=[0-9]+/[0-9]))?{RUN}(?: ?/ ?{RUN})*{POWER}?"
    rf"(?:%|[kM]\b| ?[bm]n\b| (?:{'|'.join(SCALES)})\b)?"
)
QUANTITY = re.compile(r"(?P<sum>[-+*/^()0-9., eExX]*?[0-9.)])(?P<unit>(?!\))[^\d=+*^<>{}\\|~±∈√]*)", re.DOTALL)
# 5 and a half, 3x, 3ab: more than the number
NO_UNIT = re.compile(
    r"!|\s*[-/(]?\s*(?:and|or|to|times|more|less|plus|minus|over|pi|inf|sqrt|log|ln|sin|cos|tan|[xyznkie]|[bm]n"
    r"|(?-i:M))(?![^\W\d_])"
    r"|(?!(?:[kcm]?m|[mk]?g|m?l|s|h|hr|lb|oz|ft|in|yd|mi|am|pm|st|nd|rd|th)\b)[^\W\d_]{1,2}(?![^\W\d_])",
    re.IGNORECASE,
)
AREA = re.compile(r"\b([kcm]?m|in|ft|yd|mi|units?|inches|feet|[a-z]*met(?:er|re)s?)\^[23]\b")
DOUBTFUL = re.compile(r"[0-9).] *-|/[^-+*()]*/|[-+] *[-+]")  # 5-10, 1/2/3
THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(?:,[0-9]{3})+(?![0-9,])|(?: [0-9]{3})+(?![0-9,]| ?/))")
MIXED = re.compile(r"(?<![\w.,/^)])([0-9]+) +([0-9]+) ?/ ?([0-9]+)(?![\w/^]|[.,][0-9]| ?/)")
SCIENTIFIC = re.compile(r"(?<![\w.,])([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([-+]?[0-9]+)(?![\w^]|[.,][0-9])")


def plain_text(text: str) -> str:
    """A text with its TeX and its typographic signs written plainly: for one line, or a part of one."""
    text = re.sub("[¼-¾⅐-⅞]", lambda found: " " + unicodedata.normalize("NFKC", found[0]), text)
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda found: "^" + unicodedata.normalize("NFKC", found[0]), text).translate(SIGNS)
    text = re.sub(r"\\([a-zA-Z]+)", lambda found: COMMANDS.get(str(found[1]), str(found[0])), text)
    for _ in range(MAX_NESTING):
        before = text
        for pattern, replacement in TEX:
            text = re.sub(pattern, replacement, text)
        if text == before:
            break
    return text.replace(r"\{", "{").replace(r"\}", "}")


def expand(text: str) -> str:
    """A plain text with 1 1/2 as a sum and 1.5e3 as a product."""

    def add(found: re.Match[str]) -> str:
        whole, above, below = found.groups()
        return f"({whole}+{above}/{below})" if int(above) < int(below) else found[0]

    return SCIENTIFIC.sub(r"(\1*10**\2)", MIXED.sub(add, text))


def last_number(text: str) -> str | None:
    """The last number in a text, as it stands there but for its TeX; None where there is none."""
    for line in reversed(text.split("\n")):
        if found := NUMBER.findall(AREA.sub(r"\1", plain_text(line[-MAX_LINE:]))):
            return found[-1].strip()
    return None


def parse_number(text: str) -> Fraction | None:
    """The exact value of a plain text that is one number, a unit after it or not; else None.

    Sums, products and powers of numbers have a value too. Raises nothing: what is too large to be worked out has none.
    """
    text = AREA.sub(r"\1", re.sub(CURRENCY, "", text)).strip()
    if text.casefold() in SPELLED:
        return Fraction(SPELLED[text.casefold()])
    match = QUANTITY.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None or NO_UNIT.match(match["unit"]) or DOUBTFUL.search(match["sum"]):
        return None
    written = re.sub(" ?[xX] ?(?=10 ?\\^)", "*", match["sum"])  # 2 x 10^3
    written = THOUSANDS.sub(lambda found: re.sub("[ ,]", "", found[0]), written)
    written = re.sub("(?<![0-9.])0+(?=[0-9])", "", written)  # 018
    try:
        found = exact.evaluate_number(expand(written).replace("^", "**"))
    except (DataError, ZeroDivisionError):
        return None
    words = match["unit"].split()
    return found * SCALES.get(words[0].casefold().rstrip("s.,"), 1) if words else found
