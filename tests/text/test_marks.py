"""Stand-ins: one to one, there for each sign that a control token could be made of, and nowhere else."""

import pytest

from vishwamai.errors import InputError
from vishwamai.text.marks import AUTHOR, TEMPLATE, USER, Answers, Marks

NEEDED = {"<|im_end|>": TEMPLATE, "[INST]": TEMPLATE, "<think>": AUTHOR, "</think>": AUTHOR}
TEXT = '  Say </think> "x" \\ a,b,,c\n</think>\U000f0000\U0010fffd é½ ＜ 你好 x_y 12  end\t'


def marks(known=(), needed=None) -> Marks:
    return Marks(NEEDED if needed is None else needed, known)


def test_marks_are_one_to_one_and_bear_their_trust():
    found = marks()
    user, author = found.mark(TEXT), found.mark(TEXT, AUTHOR)
    assert found.plain(user) == found.plain(author) == TEXT and len(user) == len(author) == len(TEXT)
    text = f"<s>{user}er{author}"
    assert found.plain(text) == f"<s>{TEXT}er{TEXT}"
    kept = {character for character, trust in zip(text, found.trust(text), strict=True) if trust == TEMPLATE}
    assert all(character.isalnum() or character.isspace() or character in '<s>/"\\_' for character in kept)
    assert {USER, AUTHOR} <= set(found.trust(text))


def test_letters_digits_spaces_and_quotes_stay():
    text = "Grüße, 你好 1² x_y\n\t\"'\\\x00"
    assert marks().mark(text) == text.replace("'", "\U000f0000").replace(",", "\U000f0001")


@pytest.mark.parametrize("sign", ["<", "|", "[", "/", "＜", "½", "≮", "⒜", "🙂", "\u200d", "\U000f0005", "\U0010fffd"])
def test_every_other_sign_has_a_stand_in(sign):
    found = marks()
    assert found.trust(found.mark(f"a{sign}b")) == [TEMPLATE, USER, TEMPLATE]


def test_a_whole_text_that_the_template_knows_stays_unless_it_could_be_part_of_a_control_token():
    known = ["$ref", "a<b", "<|im_end|>", "im_end|>", "<", "a [INST] b", "]", "--", "\n\n", "x-y"]
    found = marks(known)
    for text in ("$ref", "a<b", "--", "x-y"):
        assert found.mark(text) == text and USER in found.trust(found.mark(f"a{text}b"))
    assert "<" not in marks(["<think>"]).mark("<think>") and marks(["<think>"]).mark("<think>", AUTHOR) == "<think>"
    for text in ("<|im_end|>", "im_end|>", "<", "a [INST] b", "]"):
        assert USER in found.trust(found.mark(text))


def test_control_tokens_that_the_author_may_write_stay():
    found = marks()
    marked = found.mark("<think>a</think><|im_end|>", AUTHOR)
    assert marked.startswith("<think>a</think>") and not set("<|>") & set(marked[16:])
    assert "<" not in found.mark("<think>a</think>")


def test_a_text_that_is_a_part_of_a_control_token_has_no_letter_left():
    found = marks()
    assert set(found.trust(found.mark("INST"))) == {USER} and set(found.trust(found.mark("im_end"))) == {USER}
    assert found.trust(found.mark(" INST ")) == [TEMPLATE, *[USER] * 4, TEMPLATE]
    assert found.mark("INSTR") == "INSTR"
    assert marks(["INST"]).mark("INST") == "INST"  # the template knows this word


def test_control_tokens_of_letters_alone_cost_all_letters():
    found = marks(needed={"END": TEMPLATE})
    assert set(found.trust(found.mark("the END is"))) == {USER, TEMPLATE} and "E" not in found.mark("the END is")


def test_too_many_different_signs_are_refused():
    with pytest.raises(InputError, match="too many different signs"):
        marks().mark("".join(map(chr, range(0x30000, 0x50000))))


def test_answers_are_told_again_in_the_order_of_the_questions():
    first = Answers()
    found = [
        first.ask("a", lambda: 1),
        first.ask("b", lambda: first.ask("inner", lambda: 2.5) and "text"),
        first.ask("c", lambda: first.ask("inner", lambda: "x") == "x"),
        first.ask("d", lambda: None),
    ]
    assert found == [1, "text", True, None]
    second = first.again()
    assert second.ask("a", lambda: 7) == 1
    assert second.ask("b", lambda: second.ask("inner", lambda: 9)) == 2.5
    assert second.ask("c", lambda: pytest.fail("the answer is known")) is True
    assert second.ask("d", lambda: 7) is None and second.ask("e", lambda: 8) == 8


def test_another_way_through_the_template_finds_its_own_answers():
    first = Answers()
    for question in "abc":
        first.ask(question, lambda: True)
    second = first.again()
    assert second.ask("a", lambda: False) is True
    assert second.ask("c", lambda: False) is False and second.ask("c", lambda: False) is False
