"""Explanations: the written text, prompts of the two splits that never meet, a judge that tells terms apart."""

import itertools
import random
import re
from importlib import resources

from vishwamai.data import explanations as e
from vishwamai.data.generated import CORPORA, SPLITS, generated, held_out, row_at


def rows(split, n, seed=0):
    return list(itertools.islice(generated("explanations", split, seed=seed), n))


def test_every_heading_of_the_text_is_a_term_with_a_paragraph():
    text = resources.files("vishwamai").joinpath("assets/explanations.md").read_text(encoding="utf-8")
    assert list(e.explanations()) == re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert {"machine learning", "VishwamAI", "a mixture of experts"} <= set(e.explanations())
    assert len(e.explanations()) >= 120


def test_paragraphs_are_short_plain_and_whole():
    for term, text in e.explanations().items():
        assert 40 <= len(text.split()) <= 70, term
        assert text[0].isupper() and text.endswith(".") and text.isascii() and "\n" not in text, term
        assert term.lower() in text.lower(), term
    assert len(set(e.explanations().values())) == len(e.explanations())


def test_training_never_asks_a_term_in_its_held_out_phrasing():
    test = {problem.prompt for problem in held_out("explanations")}
    train = {row.prompt for row in rows("train", 20000)}
    assert len(test) == len(e.explanations()) and not test & train
    every = {phrasing.format(term=term) for term in e.explanations() for phrasing in e.PHRASINGS}
    assert train == every - test
    assert {row.prompt for row in rows("held_out", 3000)} == test


def test_the_documented_prompt_is_trained_for_every_term():
    assert all(e.held_out_phrasing(term) != e.ALWAYS_TRAINED for term in e.explanations())
    assert e.ALWAYS_TRAINED.format(term="machine learning") == "Explain the concept of machine learning:"
    assert {e.held_out_phrasing(term) for term in e.explanations()} == set(e.PHRASINGS) - {e.ALWAYS_TRAINED}


def test_rows_hold_the_right_paragraph_at_full_weight():
    for row in rows("train", 300):
        (prompt, asked), (answer, told) = row.text_spans
        (term,) = [t for t in e.explanations() if prompt in {p.format(term=t) for p in e.PHRASINGS}]
        assert (asked, told) == (0.0, 1.0) and answer.strip() == e.explanations()[term]


def test_the_judge_accepts_its_own_and_no_other():
    problems = held_out("explanations")
    for problem in problems:
        assert [p.answer for p in problems if problem.grade(p.answer)] == [problem.answer], problem.prompt


def test_the_judge_wants_most_words_and_few_others():
    problem = held_out("explanations")[0]
    words = problem.answer.split()
    assert problem.grade(" ".join(words[: int(0.9 * len(words))]))
    assert not problem.grade(" ".join(words[: len(words) // 2]))
    assert not problem.grade(problem.answer * 2) and not problem.grade("")


def test_rows_depend_on_seed_alone():
    assert rows("train", 10, seed=1) == rows("train", 10, seed=1) != rows("train", 10, seed=2)


def test_any_name_and_split_gives_rows_at_any_place():
    for name, split in itertools.product(CORPORA, SPLITS):
        far = row_at(name, split, 5, 10**9)
        assert far == next(generated(name, split, 5, start=10**9)) and far.prompt and far.completion


def test_random_state_is_not_shared():
    random.seed(0)
    before = random.getstate()
    rows("train", 5)
    assert random.getstate() == before
