"""Mini crosswords: ten clues and a board of five words by five, filled a word at a time.

The task is that of Tree of Thoughts (Yao et al., 2023, section 4.3). A state is the board as 25 capitals, `_` where
no letter stands, row by row. `PUZZLES` has two small ones of our own. It knows no dictionary but the one it is given.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from vishwamai.errors import InputError
from vishwamai.reasoning.model import Completion, Prompt
from vishwamai.reasoning.task import Task

SIDE = 5
EMPTY = "_" * SIDE**2
CELLS = {f"h{i + 1}": tuple(range(SIDE * i, SIDE * i + SIDE)) for i in range(SIDE)}
CELLS |= {f"v{i + 1}": tuple(range(i, SIDE**2, SIDE)) for i in range(SIDE)}
CONFIDENCE = {"certain": 1.0, "high": 0.75, "medium": 0.5, "low": 0.25}

CLUE = re.compile(r"\s*([hv][1-5])\s*[.:)]\s*(\S.*)", re.IGNORECASE)
STEP = re.compile(r"\s*([hv][1-5])\s*[.:)]\s*([a-z]{5})\s*(?:\(([^()]*)\))?\s*", re.IGNORECASE | re.ASCII)
ROW = re.compile(r"[A-Z_]{5}")
BOARD = re.compile(r"[A-Z_]{25}")
NEXT = "Clues:"

PUZZLES = {
    """h1. A band of wool for the neck
h2. Of the far north or the far south
h3. With nobody else
h4. Red powder for the cheeks
h5. Came to a stop
v1. Kept in reserve, as a fifth wheel is
v2. Two dots, one above the other
v3. So that others can hear it
v4. A row of mountains
v5. Let out of the cage""": "SCARF\nPOLAR\nALONE\nROUGE\nENDED",
    """h1. A steep face of rock by the sea
h2. Of the kidneys
h3. Say without saying so
h4. A cat chases one, a hand clicks one
h5. Go in
v1. What a detective looks into
v2. A sour yellow fruit
v3. What a program is given
v4. Not true
v5. A leaflet, or a thing with wings""": "CLIFF\nRENAL\nIMPLY\nMOUSE\nENTER",
}

EXAMPLE = """h1. It pumps blood
h2. A glowing bit of coal
h3. Cruel treatment
h4. What a pine tree sticks to your hands
h5. The way in which things are moving
v1. A red shape on a playing card
v2. It is left when a fire dies down
v3. Misuse, of power for one
v4. Amber was this once
v5. A fashion of the moment"""
EXAMPLE_STEPS = "h1. HEART (certain)\nv4. RESIN (high)\nh2. EMBER\nh3. ABUSE\nh5. TREND\nh4. RESIN (certain)"
EXAMPLE_BOARD = "HEART\nEMBER\nABUSE\nRESIN\nTREND"

RULES = "Solve a crossword of 5 by 5 letters: h1 to h5 are its rows from the top, v1 to v5 its columns from the left.\n"
STEPS = """Each step is a line with one word, such as h2. MOTOR. The word has five letters, agrees with the letters that
stand, and adds one at least. You may say how sure you are: (certain), (high), (medium) or (low).
"""
WHOLE = "Write the five rows of the solved board and nothing else.\n"


class MiniCrosswords(Task):
    """Ten clues, as lines `h1. clue` to `v5. clue` or as ten lines: across, then down. A step is `h2. MOTOR (certain)`.

    An answer is five rows. It is checked against `solutions` ({problem: board}) where they have the problem, else
    against `words`: all ten words are among them. Raises `InputError` for a problem or a solution that is malformed.
    """

    name = "crosswords"
    depth = 10
    chain_stop = (f"\n{NEXT}",)
    closing = "\nRows:\n"
    closing_stop = ("\n\n",)

    def __init__(self, solutions: Mapping[str, str] | None = None, words: Collection[str] | None = None):
        self.words = None if words is None else frozenset(word.strip().upper() for word in words)
        self.solutions = {clues_of(problem): _solution(board) for problem, board in (solutions or {}).items()}

    def read(self, problem: str) -> str:
        """The empty board."""
        clues_of(problem)
        return EMPTY

    def recognises(self, problem: str) -> bool:
        """Whether it is ten clues with their marks."""
        try:
            clues_of(problem)
        except InputError:
            return False
        return CLUE.match(problem) is not None

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        """Rules with an example, the clues, each step, and where there are steps the board that they lead to."""
        start = f"{RULES}{STEPS}\n{NEXT}\n{EXAMPLE}\nSteps:\n{EXAMPLE_STEPS}\n\n"
        board = [f"The board now:\n{rows_of(self._played(steps))}\nSteps from here:\n"] if steps else []
        return start, f"{NEXT}\n{_lines(problem)}\nSteps:\n", *(f"{step.strip()}\n" for step in steps), *board

    def direct_prompt(self, problem: str) -> Prompt:
        """What the model continues with the five rows."""
        start = f"{RULES}{WHOLE}\n{NEXT}\n{EXAMPLE}\nRows:\n{EXAMPLE_BOARD}\n\n"
        return start, f"{NEXT}\n{_lines(problem)}\nRows:\n"

    def step(self, state: str, text: str) -> str | None:
        """The board with one more word, or None where it is malformed, contradicts a letter or adds none."""
        match = STEP.fullmatch(text)
        if match is None:
            return None
        board = list(state)
        for cell, letter in zip(CELLS[match[1].lower()], match[2].upper(), strict=True):
            if board[cell] not in ("_", letter):
                return None
            board[cell] = letter
        after = "".join(board)
        return after if after != state else None

    def answer(self, problem: str, steps: Sequence[str], state: str) -> str | None:
        """The rows of a full board."""
        return rows_of(state) if "_" not in state else None

    def check(self, problem: str, answer: str) -> bool | None:
        """Whether the board is the solution, or all ten words are known; no board of 25 letters is right."""
        board = _shown(answer)
        if board is None or "_" in board:
            return False
        solution = self.solutions.get(clues_of(problem))
        if solution is not None:
            return board == solution
        return None if self.words is None else self.words.issuperset(words_of(board))

    def split(self, text: str) -> list[str]:
        """The lines of a chain up to the next puzzle, without rows of a board."""
        lines = super().split(text.partition(NEXT)[0])
        return [line for line in lines if not ROW.fullmatch(_closed(line))]

    def extract(self, text: str) -> str | None:
        """The last full board that stands in a chain, or else the one that its steps fill."""
        board = self.board(text.partition(NEXT)[0])
        return rows_of(board) if "_" not in board else None

    def value(self, made: Completion) -> float | None:
        """How sure the model says it is of a step: certain 1, high 0.75, medium 0.5, low 0.25."""
        match = STEP.fullmatch(made.text)
        return CONFIDENCE.get((match[3] or "").strip().lower()) if match else None

    def board(self, text: str) -> str:
        """The 25 letters of the last five rows in a text, or those that the steps in it fill; `_` for the others."""
        return _shown(text) or self._played(text.split("\n"))

    def letter_accuracy(self, problem: str, text: str) -> float:
        """The share of the solution's 25 letters that a board or steps have right. Raises `InputError` without one."""
        pairs = zip(self.board(text), self._known(problem), strict=True)
        return sum(letter == right for letter, right in pairs) / SIDE**2

    def word_accuracy(self, problem: str, text: str) -> float:
        """The share of the ten words that a board or steps have right. Raises `InputError` without a solution."""
        pairs = zip(words_of(self.board(text)), words_of(self._known(problem)), strict=True)
        return sum(word == right for word, right in pairs) / len(CELLS)

    def _played(self, steps: Sequence[str]) -> str:
        """The board after those steps that are right."""
        state = EMPTY
        for step in steps:
            state = self.step(state, step) or state
        return state

    def _known(self, problem: str) -> str:
        solution = self.solutions.get(clues_of(problem))
        if solution is None:
            raise InputError(
                "accuracy needs the solution, and this crossword has none; give solutions={problem: board}"
            )
        return solution


def clues_of(problem: str) -> tuple[str, ...]:
    """The ten clues, h1 to h5 and v1 to v5. Raises `InputError` for anything else, saying what is missing."""
    lines = [line for line in problem.split("\n") if line.strip()]
    marked = [match for match in map(CLUE.fullmatch, lines) if match]
    if not marked and len(lines) == len(CELLS):
        return tuple(" ".join(line.split()) for line in lines)
    clues = {match[1].lower(): " ".join(match[2].split()) for match in marked}
    if len(lines) == len(marked) == len(clues) == len(CELLS):
        return tuple(clues[mark] for mark in CELLS)
    found = f"{len(lines)} lines, " + (f"with the marks {', '.join(sorted(clues))}" if clues else "none of them marked")
    raise InputError(
        f"a mini crossword is ten clues on ten lines, 'h1. clue' to 'h5. clue' and 'v1. clue' to 'v5. clue', each mark "
        f"once, or ten lines without marks; this one has {found}"
    )


def words_of(board: str) -> tuple[str, ...]:
    """The ten words of 25 letters, across and then down."""
    return tuple("".join(board[cell] for cell in cells) for cells in CELLS.values())


def rows_of(board: str) -> str:
    """25 letters as five lines."""
    return "\n".join(words_of(board)[:SIDE])


def _lines(problem: str) -> str:
    return "\n".join(f"{mark}. {clue}" for mark, clue in zip(CELLS, clues_of(problem), strict=True))


def _closed(line: str) -> str:
    """A row without what may stand between its letters."""
    return re.sub(r"[\s|,]+", "", line).upper()


def _shown(text: str) -> str | None:
    """The last five rows in a text that follow one another, as 25 letters; or the text, where it is those."""
    if BOARD.fullmatch(text):
        return text
    lines = [_closed(line) for line in text.split("\n")]
    for end in range(len(lines), SIDE - 1, -1):
        rows = lines[end - SIDE : end]
        if all(map(ROW.fullmatch, rows)):
            return "".join(rows)
    return None


def _solution(board: str) -> str:
    letters = _closed(board)
    if len(letters) != len(EMPTY) or not (letters.isascii() and letters.isalpha()):
        raise InputError(f"the solution {board!r:.60} of a mini crossword must be five rows of five letters")
    return letters
