"""What bears loss in a chat, for templates in the manner of the published families: `chat_masks.txt`, to be read."""

import json
import re
from pathlib import Path

import pytest

from vishwamai.data.rows import ChatRow, encode_row
from vishwamai.errors import DataError

from .chat_families import FAMILIES

FUNCTION = {"name": "rain", "arguments": {"city": "Oslo"}}
TOOLS = [{"type": "function", "function": {"name": "rain", "parameters": {"city": "string"}}}]
SYSTEM, HI = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}
HELLO, WET = {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Wet in Oslo?"}
ASKS = [{"id": "abc123def", "type": "function", "function": FUNCTION}]
CALL = {"role": "assistant", "content": "", "tool_calls": ASKS}
RAIN = {"role": "tool", "content": "It rains.", "tool_call_id": "abc123def"}
YES, THANKS = {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Thanks!"}
THOUGHT = YES | {"reasoning_content": "Rain."}

TALKS = {
    "several turns": ([SYSTEM, HI, HELLO, WET, YES], None),
    "with a tool": ([SYSTEM, HI, HELLO, WET, CALL, RAIN, YES], TOOLS),
    "with a tool that is not in the prompt": ([SYSTEM, HI, HELLO, WET, CALL, RAIN, YES], None),
    "tools, no system": ([HI, HELLO, WET, CALL, RAIN, YES], TOOLS),
    "its own system line": ([HI, HELLO], None),
    "old thoughts, among calls, are dropped": (
        [WET, CALL | {"reasoning_content": "Look."}, RAIN, THOUGHT, THANKS, HELLO | {"reasoning_content": "Ah."}],
        None,
    ),
    "thoughts in the content": ([WET, YES | {"content": "<think>\nRain.\n</think>\n\nYes."}], None),
    "a thought is a message of its own": ([WET, THOUGHT], None),
    "numbers and two calls": (
        [WET, CALL | {"tool_calls": [{"function": {"name": name, "arguments": {"n": 12}}} for name in ("a", "b")]}],
        None,
    ),
    "answers that are like their questions": (
        [HI, HELLO | {"content": "Hi!"}, HI, HELLO | {"content": "assistant\n"}],
        None,
    ),
}


def read_table() -> dict[tuple[str, str], str]:
    """(family, conversation) -> the prompt, with brackets round what bears loss."""
    _, *parts = re.split("^=== ", (Path(__file__).parent / "chat_masks.txt").read_text("utf-8"), flags=re.MULTILINE)
    pairs = (part.split("\n", 1) for part in parts)
    return {tuple(title.split(": ")): text.removesuffix("\n").replace("\\\n", "") for title, text in pairs}


TABLE = read_table()
WITHOUT_TOOLS = ("Gemma 3", "Phi 3", "Phi 4", "SmolLM 2", "OLMo 2", "Command R")


@pytest.fixture(scope="module")
def tokenizers():
    return {name: family.tokenizer() for name, family in FAMILIES.items()}


def shown(tokenizer, messages, tools=None, turns="all") -> str:
    """The text of a row with ⟦…⟧ round each run of tokens that bear loss, or why there is none."""
    try:
        tokens, weights = encode_row(tokenizer, ChatRow(messages, tools, turns=turns))
    except DataError as error:
        return f"refused: {error}"
    runs, before = [], 0.0
    for token, weight in zip(tokens, weights, strict=True):
        if weight != before or not runs:
            runs.append(("⟦{}⟧" if weight else "{}", []))
        runs[-1][1].append(token)
        before = weight
    text = "".join(form.format(tokenizer.decode(run)) for form, run in runs)
    for indent in (None, 4):
        text = text.replace(json.dumps(TOOLS, indent=indent), "TOOLS")
    return text


@pytest.mark.parametrize(("name", "talk"), TABLE)
def test_what_bears_loss_is_what_the_table_says(tokenizers, name, talk):
    messages, tools = TALKS[talk]
    assert shown(tokenizers[name], messages, tools) == TABLE[name, talk]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_turn_alone(tokenizers, name):
    whole = shown(tokenizers[name], [HI, HELLO, WET, YES])
    assert whole.count("⟦") == whole.count("⟧") == 2
    last = shown(tokenizers[name], [HI, HELLO, WET, YES], turns="last")
    assert last == whole.replace("⟦", "", 1).replace("⟧", "", 1) and "Yes." in last.partition("⟦")[2]


def test_the_table_has_every_family():
    assert {name for name, talk in TABLE if talk == "several turns"} == {*FAMILIES} and len(FAMILIES) >= 12
    assert {talk for _, talk in TABLE} == {*TALKS}


@pytest.mark.parametrize("name", WITHOUT_TOOLS)
def test_a_family_without_tools_refuses_a_call_of_one(tokenizers, name):
    found = shown(tokenizers[name], [HI, HELLO, WET, CALL, RAIN, YES])
    assert found.startswith("refused: the chat template ") and re.search(
        "tool calls of messages.3.|must alternate", found
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_control_token_in_a_message_is_text_and_moves_no_loss(tokenizers, name):
    tokenizer = tokenizers[name]
    plain = [HI, HELLO, WET, YES]
    for token in FAMILIES[name].special.split():
        if name == "GPT-OSS" and token == "<|channel|>":
            continue
        forged = [message | {"content": f"x{token}y"} for message in plain]
        (tokens, weights), (was, _) = (encode_row(tokenizer, ChatRow(talk)) for talk in (forged, plain))
        controls = [index for index in tokens if index in tokenizer.control_ids]
        assert controls == [index for index in was if index in tokenizer.control_ids]
        learnt = tokenizer.decode([index for index, weight in zip(tokens, weights, strict=True) if weight])
        assert learnt.count(f"x{token}y") == 2 and tokenizer.decode(tokens).count(f"x{token}y") == 4
