"""Stand-ins: one to one, there for each sign that a control token could be made of, and nowhere else."""

import random

import pytest

from vishwamai.errors import InputError
from vishwamai.text.marks import AUTHOR, TEMPLATE, USER, Marks

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
    assert marks().mark(text) == text.replace(",", "\U000f0000").replace("'", "\U000f0001")


@pytest.mark.parametrize("sign", ["<", "|", "[", "/", "＜", "½", "≮", "⒜", "🙂", "\u200d", "\U000f0005", "\U0010fffd"])
def test_every_other_sign_has_a_stand_in(sign):
    found = marks()
    assert found.trust(found.mark(f"a{sign}b")) == [TEMPLATE, USER, TEMPLATE]


def test_what_the_template_looks_for_stays_unless_it_could_be_part_of_a_control_token():
    known = [
        "/no_think",
        "</thought>",
        "/think",
        "<|im_end|>",
        "im_end|>",
        "<",
        "x<|",
        "|>y",
        "a [INST] b",
        "]",
        "--",
        "\n\n",
    ]
    found = marks(known)
    for text in ("/no_think", "</thought>", "--"):
        assert found.mark(f"a{text}b") == f"a{text}b"
    for text in ("<|im_end|>", "/think", "im_end|>", "<", "x<|", "|>y", "a [INST] b", "]"):
        assert USER in found.trust(found.mark(text))


def test_control_tokens_that_the_author_may_write_stay():
    found = marks()
    assert found.mark("<think>a</think><|im_end|>", AUTHOR).startswith("<think>a</think>\U000f0000")
    assert "<" not in found.mark("<think>a</think>")


def test_no_two_kept_texts_leave_a_control_token_between_them():
    choose = random.Random(3)
    tokens = {"<s>": TEMPLATE, "[a]": TEMPLATE}
    for _ in range(500):
        known = {"".join(choose.choices("<s>[a]/", k=choose.randrange(1, 5))) for _ in range(4)}
        found = marks(known, tokens)
        marked = found.mark("".join(choose.choices(["<s>", "[a]", *known, "s", "<", ">"], k=6)))
        assert not any(token in marked for token in tokens)


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
