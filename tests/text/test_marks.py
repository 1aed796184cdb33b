"""Marked strings: they answer as the plain text does, and no operation takes the marks off."""

import json
import operator
import random

import pytest

from vishwamai.errors import InputError
from vishwamai.text.marks import AUTHOR, TEMPLATE, USER, Marked, Marks

TEXT = '  Say </think> "x" \\ a,b,,c\n</think>\U000f0000\U0010fffd  end\t'
ARGUMENTS = ["</think>", "a", ",", " ", "zz", "  Say", "\t"]


def same(marks: Marks, got: object, expected: object) -> bool:
    """Whether a result says what the plain one does, and every part of it still bears its marks."""
    if isinstance(expected, str):
        assert isinstance(got, Marked)
        return marks.plain(got) == expected
    if isinstance(expected, (list, tuple)):
        return len(got) == len(expected) and all(same(marks, *pair) for pair in zip(got, expected, strict=True))
    return got == expected


def test_marks_are_one_to_one():
    marks = Marks()
    marked = marks.mark(TEXT)
    assert marks.plain(marked) == TEXT and len(marked) == len(TEXT)
    kept = [character for character, trust in zip(TEXT, marks.trust(marked), strict=True) if trust == TEMPLATE]
    assert set(kept) == set(' \n\t"\\')
    assert not set(marks.plain(marked)) - set(TEXT)


def test_trust_goes_with_the_character():
    marks = Marks()
    text = "<s>" + marks.mark("us") + "er" + marks.mark("me", AUTHOR)
    assert marks.trust(text) == [TEMPLATE] * 3 + [USER] * 2 + [TEMPLATE] * 2 + [AUTHOR] * 2
    assert marks.plain(text) == "<s>userme"


@pytest.mark.parametrize(
    "name", "startswith endswith find rfind count __contains__ __eq__ __ne__ __lt__ __ge__".split()
)
@pytest.mark.parametrize("argument", [*ARGUMENTS, TEXT[:30]])
def test_questions_are_answered_as_for_plain_text(name, argument):
    marks = Marks()
    marked = marks.mark(TEXT)
    for given in (argument, marks.mark(argument), marks.mark(argument, AUTHOR)):
        assert getattr(marked, name)(given) == getattr(TEXT, name)(argument)


@pytest.mark.parametrize(
    "name", "split rsplit partition rpartition strip lstrip rstrip removeprefix removesuffix".split()
)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_parts_are_those_of_plain_text_and_marked(name, argument):
    marks = Marks()
    assert same(marks, getattr(marks.mark(TEXT), name)(argument), getattr(TEXT, name)(argument))


@pytest.mark.parametrize("name", "split rsplit strip lstrip rstrip splitlines upper lower title capitalize".split())
def test_methods_without_arguments(name):
    marks = Marks()
    for text in (TEXT, "", " ", "\n\na\r\nb\n", "a b  c"):
        assert same(marks, getattr(marks.mark(text), name)(), getattr(text, name)())


def test_splits_of_random_text():
    choose = random.Random(5)
    for _ in range(300):
        text = "".join(choose.choices("ab \n", k=10))
        gap = "".join(choose.choices("ab ", k=choose.randrange(1, 4)))
        marks = Marks()
        for limit in (-1, 1, 2):
            assert same(marks, marks.mark(text).split(gap, limit), text.split(gap, limit))
            assert same(marks, marks.mark(text).rsplit(None, limit), text.rsplit(None, limit))
        assert same(marks, marks.mark(text).replace(gap, "--"), text.replace(gap, "--"))
        assert same(marks, marks.mark(text).splitlines(True), text.splitlines(True))


def test_parts_keep_the_trust_of_their_own_place():
    marks = Marks()
    mixed = marks.mark("a") + "--" + marks.mark("-")
    first, second = mixed.split("--")
    assert (marks.trust(first), marks.trust(second), marks.plain(second)) == ([USER], [USER], "-")


def test_what_python_does_by_itself_keeps_the_marks():
    marks = Marks()
    marked = marks.mark("<|x|>")
    made = [
        "a" + marked,
        marked + "a",
        marked * 2,
        2 * marked,
        "".join([marked, marked]),
        operator.mod("%s!", marked),
        f"{marked}!",
        str.format("{}!", marked),
        str({"k": marked}),
        marked[1:3],
        next(iter(marked)),
        "a-b".replace("-", marked),
        marked.format(1),
    ]
    for text in made:
        assert USER in marks.trust(text)
        assert "<|x|>" not in str.__str__(text)


def test_keys_are_found_by_their_plain_text():
    marks = Marks()
    table = {marks.mark("type"): 1}
    assert table["type"] == 1 and {"type": 2}[marks.mark("type")] == 2
    assert hash(marks.mark("type")) == hash("type")


def test_adopting_gives_strings_their_class_back():
    marks = Marks()
    marked = marks.mark("ab")
    lost = "".join([marked, "c"])
    assert type(lost) is str and isinstance(marks.adopt(lost), Marked) and marks.adopt(lost) == "abc"
    assert type(marks.adopt("abc")) is str and marks.adopt(3) == 3


def test_json_of_marked_text_reads_back():
    marks = Marks()
    text = json.dumps({"a": marks.mark('say "hi"\n\\')}, ensure_ascii=False)
    assert json.loads(marks.plain(text)) == {"a": 'say "hi"\n\\'}


def test_text_of_too_many_characters_is_refused():
    marks = Marks()
    with pytest.raises(InputError, match="too many different characters"):
        marks.mark("".join(map(chr, range(0x1000, 0x22000))))
