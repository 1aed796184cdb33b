"""What a template leaves out of a chat is named, and what it may leave out is not."""

import pytest

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text.shown import check_shown

USER = {"role": "user", "content": "hi"}
CALL = {"role": "assistant", "content": "I look.", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
FLAT = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}, {"name": "g"}]}


def contents(messages) -> str:
    return " ".join(str(message.get("content")) for message in messages)


def parts(messages) -> str:
    return "".join(part["text"] for part in messages[0]["content"])


def words(messages) -> str:
    return "".join(part.get("text", "") for part in messages[0]["content"])


def shown(part, *keys) -> str:
    return "".join(part) if not keys else shown(part[keys[0]], *keys[1:])


PARTS = {
    "tool_result": {"type": "tool_result", "tool_use_id": "t", "content": "the secret is 7"},
    "document": {"type": "document", "text": " ", "source": {"data": ["b"]}},
    "pdf": {"type": "pdf", "id": "p", "pages": 7},
    "refusal": {"type": "refusal", "refusal": "no"},
    "content": {"content": "b"},
    "empty": {"type": "empty"},
}


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("tool_result", ["content"]),
        ("document", ["source", "data"]),
        ("pdf", ["pages"]),
        ("refusal", ["refusal"]),
        ("content", ["content"]),
    ],
)
def test_a_part_is_shown_by_what_it_holds_and_not_by_its_type_or_id(kind, keys):
    messages = [{"role": "user", "content": [PARTS[kind]]}]
    check_shown(messages, lambda probes: shown(probes[0]["content"][0], *keys))
    for key in {"type", "tool_use_id", "id"} & {*PARTS[kind]}:
        with pytest.raises(InputError, match=f"the part of the type '{kind}' in messages"):
            check_shown(messages, lambda probes, key=key: shown(probes[0]["content"][0], key))


def names(messages) -> str:
    calls = [call for message in messages for call in message.get("tool_calls", [])]
    return "".join(call.get("function", call)["name"] for call in calls)


@pytest.mark.parametrize(
    ("messages", "render"),
    [
        ([USER, USER], contents),
        ([{"role": "user", "content": "  a b  "}], lambda messages: contents(messages).split(" b ")[0]),
        (
            [{"role": "assistant", "content": "<think>x</think>y"}],
            lambda messages: contents(messages).split("</think>")[1],
        ),
        ([USER, {"role": "assistant", "content": "", "reasoning_content": "hm"}], contents),
        ([USER, {"role": "system", "content": " \n"}], lambda messages: contents(messages[:1])),
        ([USER, CALL], lambda messages: contents(messages[:1]) + names(messages)),
        ([USER, FLAT], lambda messages: contents(messages) + names(messages)),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": ""}]}], parts),
        (
            [{"role": "assistant", "tool_calls": [{"name": " "}, {"name": None}]}, USER],
            contents,
        ),
        (
            [{"role": "assistant", "content": "a", "tool_calls": "odd"}, {"role": "tool", "tool_calls": ["odd"]}],
            contents,
        ),
    ],
)
def test_what_shows_something_of_each_message_passes(messages, render):
    check_shown(messages, render)


@pytest.mark.parametrize(
    ("messages", "render", "says"),
    [
        ([USER, USER, USER], lambda messages: contents(messages[1:]), r"messages\[0\], whose role is 'user'"),
        ([USER, USER, USER], lambda messages: contents(messages[::2]), r"messages\[1\], whose role is 'user'"),
        (
            [{"role": "system", "content": "hi"}, USER],
            lambda messages: contents(messages[1:]),
            r"whose role is 'system'",
        ),
        ([USER, CALL], contents, r"tool calls of messages\[1\]"),
        ([USER, FLAT], lambda messages: contents(messages) + "f g", r"tool calls of messages\[1\]"),
        ([USER, FLAT], lambda messages: contents(messages) + names(messages)[:1], r"tool calls of messages\[1\]"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            lambda messages: messages[0]["content"][0]["text"],
            r"messages\[0\]",
        ),
        *(
            ([{"role": "user", "content": [part, *more]}], words, f"the part of the type '{kind}' in messages")
            for kind, part in PARTS.items()
            for more in ([], [{"type": "text", "text": "a"}])
        ),
        ([{**CALL, "content": [PARTS["tool_result"]]}], names, "the part of the type 'tool_result' in messages"),
        ([USER], lambda messages: "hi", r"messages\[0\]"),
        ([USER], len, r"messages\[0\]"),
    ],
)
def test_what_is_left_out_is_named(messages, render, says):
    with pytest.raises(InputError, match=f"does not show .*{says}"):
        check_shown(messages, lambda probes: str(render(probes)))


def test_a_template_that_refuses_the_probe_passes():
    def render(messages):
        raise TokenizerError("no")

    check_shown([USER], render)


def test_the_messages_are_left_as_they_are():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {**CALL}]
    before = str(messages)
    check_shown(messages, lambda probes: parts(probes) + names(probes))
    assert str(messages) == before
