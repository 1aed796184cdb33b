"""Mini crosswords: boards, steps and judges against boards that are written out here letter by letter."""

import pytest

from vishwamai.errors import InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning import drive
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.model import Completion, join_prompt, pieces
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.tasks import crosswords
from vishwamai.reasoning.tasks.crosswords import EMPTY, EXAMPLE, EXAMPLE_BOARD, EXAMPLE_STEPS, PUZZLES, MiniCrosswords

WORDS = {
    "SCARF\nPOLAR\nALONE\nROUGE\nENDED": "SCARF POLAR ALONE ROUGE ENDED SPARE COLON ALOUD RANGE FREED",
    "CLIFF\nRENAL\nIMPLY\nMOUSE\nENTER": "CLIFF RENAL IMPLY MOUSE ENTER CRIME LEMON INPUT FALSE FLYER",
}
PUZZLE, BOARD = next(iter(PUZZLES.items()))
MARKS = [f"{way}{i}" for way in "hv" for i in range(1, 6)]
STEPS = [f"{mark}. {word}" for mark, word in zip(MARKS, WORDS[BOARD].split(), strict=True)]
TASK = MiniCrosswords(PUZZLES)


def play(steps, state=EMPTY):
    for step in steps:
        state = TASK.step(state, step)
        assert state is not None, step
    return state


def test_the_puzzles_are_squares_of_the_words_that_they_say():
    assert list(PUZZLES.values()) == list(WORDS)
    for board, words in WORDS.items():
        rows = board.split("\n")
        assert words.split() == rows + ["".join(column) for column in zip(*rows, strict=True)]


def test_the_example_solves_itself_and_is_no_puzzle_of_ours():
    assert crosswords.rows_of(play(EXAMPLE_STEPS.split("\n"))) == EXAMPLE_BOARD
    assert len(TASK.read(EXAMPLE)) == 25 and EXAMPLE not in PUZZLES
    taken = set(" ".join(WORDS.values()).split())
    assert taken.isdisjoint(EXAMPLE_BOARD.split("\n"))


@pytest.mark.parametrize(("puzzle", "board"), PUZZLES.items())
def test_every_order_of_words_leads_to_the_same_board(puzzle, board):
    words = WORDS[board].split()
    steps = [f"{mark}. {word}" for mark, word in zip(MARKS, words, strict=True)]
    across, down = play(steps[:5]), play(steps[5:])
    assert across == down == play(reversed(steps[:5])) == board.replace("\n", "")
    assert TASK.answer(puzzle, steps[:5], across) == board
    assert TASK.answer(puzzle, steps[:4], play(steps[:4])) is None


def test_a_word_stands_where_its_mark_says():
    assert TASK.step(EMPTY, "h2. POLAR") == "_____" + "POLAR" + "_____" * 3
    assert TASK.step(EMPTY, "v4. RANGE") == "___R____A____N____G____E_"


@pytest.mark.parametrize("text", ["v1. SPARE", "v1. spare (certain)", " V1: Spare ( High )", "v1) SPARE(low)  "])
def test_a_step_may_be_written_in_these_ways(text):
    assert TASK.step(EMPTY, text) == play(["v1. SPARE"])


@pytest.mark.parametrize(
    "text",
    ["", "SPARE", "v1. SPAR", "v1. SPARES", "v6. SPARE", "d1. SPARE", "v1. SP RE", "v1. SPÄRE", "v1. SPARE v2. COLON"],
)
def test_what_is_no_step_is_refused(text):
    assert TASK.step(EMPTY, text) is None


def test_a_word_must_agree_with_the_letters_and_add_one():
    state = play(["h1. SCARF", "h2. POLAR"])
    assert TASK.step(state, "v1. SPARE") is not None
    assert TASK.step(state, "v1. STARE") is None
    assert TASK.step(state, "h1. SCARF") is None
    assert TASK.step(play(STEPS[:5]), "v1. SPARE") is None


def test_confidence_is_read_from_the_step():
    def value(text):
        return TASK.value(Completion(text=text, tokens=4))

    values = [value(f"h2. MOTOR ({word})") for word in ("low", "Medium", "high", "CERTAIN")]
    assert values == sorted(set(values)) and values[-1] == 1.0 and values[0] > 0
    assert [value(text) for text in ("h2. MOTOR", "h2. MOTOR (perhaps)", "(certain)", "")] == [None] * 4


def test_clues_without_marks_and_in_another_order_are_the_same_puzzle():
    lines = PUZZLE.split("\n")
    bare = "\n".join(line[4:] for line in lines)
    mixed = "\n\n".join(f"  {line.replace('. ', ':  ', 1).upper()}" for line in reversed(lines))
    assert TASK.read(bare) == TASK.read(mixed) == EMPTY
    assert TASK.prompt(bare) == TASK.prompt(PUZZLE)
    assert TASK.check(bare, BOARD) is True and TASK.check("\n".join(reversed(lines)), BOARD) is True


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("", "0 lines, none of them marked"),
        ("one\ntwo", "2 lines, none of them marked"),
        ("\n".join(PUZZLE.split("\n")[:9]), "9 lines, with the marks h1, h2, h3, h4, h5, v1, v2, v3, v4$"),
        (PUZZLE.replace("v5.", "v4."), "10 lines, with the marks"),
        (PUZZLE.replace("v5.", ""), "10 lines, with the marks"),
        (PUZZLE + "\nand one more", "11 lines"),
    ],
)
def test_a_malformed_puzzle_is_refused_by_a_sentence(problem, said):
    with pytest.raises(InputError, match=f"ten clues on ten lines.*this one has {said}"):
        TASK.read(problem)


@pytest.mark.parametrize("board", ["SCARF\nPOLAR", "SCARF\nPOLAR\nALONE\nROUGE\nEND_D", "x" * 26, ""])
def test_a_malformed_solution_is_refused(board):
    with pytest.raises(InputError, match="five rows of five letters"):
        MiniCrosswords({PUZZLE: board})


def test_a_prompt_is_pieces_of_which_the_first_is_the_same_for_all():
    first, second = PUZZLES
    one, other = TASK.prompt(first), TASK.prompt(second)
    assert one[0] == other[0] and one[1] != other[1] and len(one) == 2
    longer = pieces(TASK.prompt(first, ["h1. SCARF (high)", "v1. SPARE"]))
    assert longer[:2] == one and longer[2:4] == ("h1. SCARF (high)\n", "v1. SPARE\n")
    assert longer[4].startswith("The board now:\nSCARF\nP____\nA____\nR____\nE____\n")
    assert join_prompt(one).count("h3. With nobody else") == 1 and "ALONE" not in join_prompt(one)
    assert TASK.direct_prompt(first)[0] == TASK.direct_prompt(second)[0] != one[0]
    assert join_prompt(TASK.direct_prompt(first)).endswith("v5. Let out of the cage\nRows:\n")


def test_the_solution_judges_before_the_words():
    assert TASK.check(PUZZLE, BOARD) is True and TASK.check(PUZZLE, BOARD.lower()) is True
    assert TASK.check(PUZZLE, "S C A R F\nP|O|L|A|R\nALONE\nROUGE\nENDED") is True
    other = list(WORDS)[1]
    assert TASK.check(PUZZLE, other) is False
    both = MiniCrosswords({PUZZLE: BOARD}, words=" ".join(WORDS.values()).lower().split())
    assert both.check(PUZZLE, other) is False and both.check(EXAMPLE, other) is True


@pytest.mark.parametrize("missing", [0, 4, 5, 9])
def test_all_ten_words_must_be_known(missing):
    words = WORDS[BOARD].split()
    assert MiniCrosswords(words=words).check(PUZZLE, BOARD) is True
    assert MiniCrosswords(words=words[:missing] + words[missing + 1 :]).check(PUZZLE, BOARD) is False


def test_without_solution_and_words_nobody_can_tell_but_a_broken_board_is_wrong():
    task = MiniCrosswords()
    assert task.check(PUZZLE, BOARD) is None
    assert [task.check(PUZZLE, text) for text in ("", "SCARF", BOARD.replace("U", "_"))] == [False] * 3


def test_a_chain_is_split_and_its_board_is_found():
    chain = "\n".join(STEPS[:5])
    assert TASK.split(f"{chain}\n\n{BOARD}\n\nClues:\nh1. OTHER\n") == STEPS[:5]
    assert TASK.extract(chain) == TASK.extract(f"{EXAMPLE_BOARD}\nso\n{BOARD}\n\n") == BOARD
    assert TASK.extract(f"{chain}\n\nClues:\n{EXAMPLE}\n{EXAMPLE_BOARD}") == BOARD
    assert TASK.extract("\n".join(STEPS[:4])) is None and TASK.extract("") is None
    assert TASK.split("h1. TOOLONG\nh9. WRONG") == ["h1. TOOLONG", "h9. WRONG"]


def test_accuracy_counts_words_and_letters():
    assert TASK.word_accuracy(PUZZLE, BOARD) == TASK.letter_accuracy(PUZZLE, BOARD) == 1.0
    assert TASK.word_accuracy(PUZZLE, EMPTY) == TASK.letter_accuracy(PUZZLE, "no board") == 0.0
    assert TASK.letter_accuracy(PUZZLE, "h1. SCARF\nh3. ALONE") == 10 / 25
    assert TASK.word_accuracy(PUZZLE, "h1. SCARF\nh3. ALONE") == 2 / 10
    # One wrong letter spoils a row and a column.
    assert TASK.letter_accuracy(PUZZLE, BOARD.replace("ROUGE", "ROUSE")) == 24 / 25
    assert TASK.word_accuracy(PUZZLE, BOARD.replace("ROUGE", "ROUSE")) == 8 / 10
    with pytest.raises(InputError, match="this crossword has none"):
        TASK.letter_accuracy(EXAMPLE, EXAMPLE_BOARD)


def test_a_model_fills_a_board_step_by_step():
    said = iter(["h1. SCARF (certain)", "v1. FLARE (high)", "v1. SPARE\nv2. COLON", *STEPS[1:5]])
    model = Scripted(lambda prompt, n: [next(said)])

    def fill():
        steps, state, budget = [], TASK.read(PUZZLE), Budget(calls=7)
        while TASK.answer(PUZZLE, steps, state) is None:
            sampling = SamplingParams(max_tokens=TASK.step_tokens, stop=TASK.stop)
            [[made]] = yield from drive.ask(budget, [TASK.prompt(PUZZLE, steps)], [1], sampling, [0])
            after = TASK.step(state, made.text)
            if after is not None:
                steps, state = [*steps, made.text], after
        return steps, TASK.answer(PUZZLE, steps, state)

    [(steps, answer)] = drive.run(model, [fill()])
    assert answer == BOARD and TASK.check(PUZZLE, answer)
    assert steps == ["h1. SCARF (certain)", "v1. SPARE", *STEPS[1:5]]
    assert model.asked[1] == model.asked[2]  # a refused word changes nothing
