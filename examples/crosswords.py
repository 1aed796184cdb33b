"""A task of your own: mini crosswords, as in Tree of Thoughts (Yao et al. 2023, section 4.3), filled by a tree search.

python examples/crosswords.py
"""

import re

from rich.console import Console

from vishwamai.errors import InputError
from vishwamai.reasoning import Scripted, Task, TreeOfThoughts
from vishwamai.reasoning.show import terminal

CELLS = {f"h{i + 1}": range(5 * i, 5 * i + 5) for i in range(5)} | {f"v{i + 1}": range(i, 25, 5) for i in range(5)}
STEP = re.compile(r"\s*([hv][1-5])\. ([A-Z]{5}) \((certain|high|medium|low)\)\s*")
CONFIDENCE = {"certain": 1.0, "high": 0.75, "medium": 0.5, "low": 0.25}


class MiniCrosswords(Task):
    """Ten clues: h1 to h5 are the rows of a board of five by five, v1 to v5 its columns. `solutions` has its rows.

    A step is a word with how sure the model is of it: `h2. POLAR (high)`. A state is the 25 letters, `_` for none yet.
    """

    name = "crosswords"
    depth = 10

    def __init__(self, solutions):
        self.solutions = solutions

    def read(self, problem):
        if missing := [mark for mark in CELLS if f"{mark}. " not in problem]:
            raise InputError(f"a mini crossword is ten clues, one a line, like 'h1. clue'; there is no {missing[0]}")
        return "_" * 25

    def prompt(self, problem, steps=()):
        rule = "Fill the crossword word by word, and say how sure you are: h2. MOTOR (high)\n"
        return rule, f"{problem}\n", *(f"{step.strip()}\n" for step in steps)

    def step(self, state, text):
        match, board = STEP.fullmatch(text), list(state)
        for cell, letter in zip(CELLS[match[1]], match[2], strict=True) if match else ():
            if board[cell] not in ("_", letter):
                return None
            board[cell] = letter
        return "".join(board) if "".join(board) != state else None

    def answer(self, problem, steps, state):
        return "\n".join(state[i : i + 5] for i in range(0, 25, 5)) if "_" not in state else None

    def check(self, problem, answer):
        return answer == self.solutions[problem] if problem in self.solutions else None

    def value(self, completion):
        match = STEP.fullmatch(completion.text)
        return CONFIDENCE[match[3]] if match else None


CLUES = """h1. A band of wool for the neck
h2. Of the far north or the far south
h3. With nobody else
h4. Red powder for the cheeks
h5. Came to a stop
v1. Kept in reserve, as a fifth wheel is
v2. Two dots, one above the other
v3. So that others can hear it
v4. A row of mountains
v5. Let out of the cage"""
ROWS = "SCARF\nPOLAR\nALONE\nROUGE\nENDED"
SAID = "h1. SHAWL (medium), h2. POLAR (high), v1. SPARE (certain), h1. SCARF (high), h3. ALONE (high), h4. ROUGE (low)"
SAID += ", h5. ENDED (medium), v2. COLON (certain)"


def says(prompt: str, n: int) -> list[str]:
    """In the place of a model: words that are not on the board. SHAWL is a mistake."""
    return [word for word in SAID.split(", ") if word not in prompt][:n]


def main() -> None:
    console = Console(highlight=False)
    tree = TreeOfThoughts(Scripted(says), search="depth", max_depth=10, task=MiniCrosswords({CLUES: ROWS}))
    found = tree.solve(CLUES)
    console.print(terminal(found.trace, console.width))
    print(found.answer)


if __name__ == "__main__":
    main()
