"""Stand-ins: one to one, there for each character that people typed, and never gone in the second render."""

import pytest

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text.marks import AUTHOR, TEMPLATE, USER, Marks

NEEDED = {"<|im_end|>": TEMPLATE, "[INST]": TEMPLATE, "<think>": AUTHOR, "</think>": AUTHOR}
TEXT = '  Say </think> "x" \\ a,b,,c\n</think>\U000f0000\U0010fffd é½ ＜ 你好 x_y 12  end\t\x00'


def marks(known=(), needed=None) -> Marks:
    return Marks(NEEDED if needed is None else needed, known)


def test_marks_are_one_to_one_and_bear_their_trust():
    found = marks()
    user, author = found.mark(TEXT), found.mark(TEXT, AUTHOR)
    assert found.plain(user) == found.plain(author) == TEXT and len(user) == len(author) == len(TEXT)
    text = f"<s>{user}er{author}"
    assert found.plain(text) == f"<s>{TEXT}er{TEXT}"
    expected = [USER if not c.isspace() and c not in '"\\\x00' else TEMPLATE for c in TEXT]
    assert found.trust(text)[: 5 + len(TEXT)] == [TEMPLATE] * 3 + expected + [TEMPLATE] * 2
    assert set(found.trust(author)) == {AUTHOR, TEMPLATE}


@pytest.mark.parametrize(
    "sign", ["<", "a", "é", "1", "'", "_", "\x7f", "≮", "⒜", "🙂", "\u200d", "\U000f0005", "\U0010fffd"]
)
def test_every_character_has_a_stand_in(sign):
    found = marks()
    assert found.trust(found.mark(f" {sign}\n")) == [TEMPLATE, USER, TEMPLATE]


def test_names_of_the_template_stay_unless_they_are_words_of_a_control_token():
    known = ["name", "end", "im_end", "INST", "a<b", "x-y", "BEGIN", "think"]
    found = marks(known, NEEDED | {"BEG": TEMPLATE})
    assert [text for text in known if found.mark(text) == text] == ["name", "end"]
    assert [text for text in known if found.mark(text, AUTHOR) == text] == ["name", "end"]
    for text in ("other", "name ", "names"):
        assert set(found.trust(found.mark(text))) == ({USER, TEMPLATE} if " " in text else {USER})


def test_control_tokens_that_the_author_may_write_stay():
    found = marks()
    marked = found.mark("<think>a</think><|im_end|>", AUTHOR)
    assert marked.startswith("<think>") and marked[8:16] == "</think>"
    assert found.trust(marked)[7] == AUTHOR and set(found.trust(marked[16:])) == {AUTHOR}
    assert set(found.trust(found.mark("<think>a</think>"))) == {USER}


def test_private_characters_of_a_template_gain_no_trust():
    assert set(marks().trust("\U000f0000\U000f0001\U000ffffd")) == {USER} and marks().trust("\U00100000") == [2]


def test_too_many_different_characters_are_refused():
    with pytest.raises(InputError, match="too many different characters"):
        marks().mark("".join(map(chr, range(0x30000, 0x50000))))
    assert len(marks().mark("".join(map(chr, range(0x30000, 0x30000 + 32_000))))) == 32_000


def told(found: Marks, true, seen):
    """What the second render is given where the first one found `true` and it found `seen`."""
    assert found.run_first(lambda: true) is true
    return found.run_again(seen if callable(seen) else lambda: seen)


@pytest.mark.parametrize("true", [True, False, 0, 7, 2.5, None])
@pytest.mark.parametrize("seen", [True, 0, "a", [], None])
def test_numbers_and_truth_are_told(true, seen):
    assert told(marks(), true, seen) is true


def test_a_text_stays_if_it_stands_for_the_same():
    found = marks()
    seen = "<|im_end|>" + found.mark("<|im_end|>", AUTHOR)
    assert told(found, "<|im_end|>" * 2, seen) is seen


@pytest.mark.parametrize("seen", ["<|im_end|>", "", None, 5, ["<|im_end|>a"], KeyError])
def test_another_text_gets_stand_ins_throughout(seen):
    found = marks()
    twin = told(found, "<|im_end|>a", (lambda: {}["x"]) if seen is KeyError else seen)
    assert found.plain(twin) == "<|im_end|>a" and set(found.trust(twin)) == {USER}


def test_lists_and_mappings_are_told_piece_by_piece():
    found = marks()
    typed = found.mark("<b")
    true = ["a", "<b", ("c", 2), {"k": "<b", "n": ["d"]}, 7]
    same = ["a", typed, ("c", 2), {"k": typed, "n": ["d"]}, 7]
    assert told(found, true, same) is same
    other = ["a", "x", ("c", 3), {"k": typed, "n": "d"}]
    twin = told(found, true, other)
    assert twin == ["a", typed, ("c", 2), {"k": typed, "n": [found.mark("d")]}, 7] and isinstance(twin[2], tuple)
    assert told(found, true[:3], None) == [found.mark("a"), typed, (found.mark("c"), 2)]
    plain = told(found, {"k": {"n": "a"}}, {"k": "x", "more": 1})
    assert plain == {"k": {found.mark("n"): found.mark("a")}}


def test_what_is_no_value_is_the_second_renders_own():
    first, second = object(), object()
    assert told(marks(), first, second) is second


def test_answers_are_told_in_the_order_in_which_they_were_found():
    found = marks()
    first = [
        found.run_first(lambda: 1),
        found.run_first(lambda: found.run_first(lambda: 2.5) > 2 and "text"),
        found.run_first(lambda: None),
    ]
    assert first == [1, "text", None]
    assert found.run_again(lambda: 7) == 1
    assert found.run_again(lambda: "text" if found.run_again(lambda: 9) == 2.5 else "") == "text"
    assert found.run_again(lambda: 7) is None and found.run_again(lambda: 8) is None


def test_bounds_hold_in_the_second_render_too():
    def over():
        raise TokenizerError("too large")

    found = marks()
    found.run_first(lambda: 1)
    with pytest.raises(TokenizerError, match="too large"):
        found.run_again(over)
