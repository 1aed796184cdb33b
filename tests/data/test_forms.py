"""Records as rows: the forms and names of TRL, other names by the configuration, and broken records in a sentence."""

import pytest

from vishwamai.config import from_dict
from vishwamai.data.corpus import Source
from vishwamai.data.forms import Columns, RowFormat, read_record
from vishwamai.data.rows import ChatRow, PairRow, Row, encode_pair, encode_row
from vishwamai.errors import ConfigError, DataError
from vishwamai.text.tokenizer import VishwamAITokenizer

BYTES = VishwamAITokenizer.bytes()
ASKED, SAID = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
OTHER, TOOLS = {"role": "assistant", "content": "b"}, [{"type": "function", "function": {"name": "f"}}]


def row(*spans: tuple[str, float]) -> Row:
    return Row(spans)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": "t", "id": 7, "prompt": None}, row(("t", 1.0))),
        ({"prompt": "q", "completion": "a"}, row(("q", 0.0), ("a", 1.0))),
        ({"messages": [ASKED, SAID]}, ChatRow([ASKED, SAID])),
        ({"messages": [ASKED, SAID], "tools": TOOLS}, ChatRow([ASKED, SAID], TOOLS)),
        ({"prompt": [ASKED, SAID, ASKED], "completion": [OTHER]}, ChatRow([ASKED, SAID, ASKED, OTHER], n_prompt=3)),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            PairRow(row(("q", 0.0), ("a", 1.0)), row(("q", 0.0), ("b", 1.0))),
        ),
        (
            {"chosen": "one and a", "rejected": "one and b"},
            PairRow(row(("one and", 0.0), (" a", 1.0)), row(("one and", 0.0), (" b", 1.0))),
        ),
        (
            {"prompt": [ASKED], "chosen": [SAID], "rejected": [OTHER], "tools": TOOLS},
            PairRow(ChatRow([ASKED, SAID], TOOLS, n_prompt=1), ChatRow([ASKED, OTHER], TOOLS, n_prompt=1)),
        ),
        (
            {"chosen": [ASKED, SAID, ASKED, SAID], "rejected": [ASKED, SAID, ASKED, OTHER, ASKED, OTHER]},
            PairRow(
                ChatRow([ASKED, SAID, ASKED, SAID], n_prompt=3),
                ChatRow([ASKED, SAID, ASKED, OTHER, ASKED, OTHER], n_prompt=3),
            ),
        ),
    ],
)
def test_each_form(record, expected):
    assert read_record(record) == expected


def test_columns_by_other_names_and_what_a_source_says_of_its_rows():
    given = {"columns": {"messages": "dialog", "tools": "functions"}, "assistant_turns": "last", "chat_template": "x"}
    form = from_dict(Source, {"kind": "jsonl", "name": "a", "rows": given}).rows
    found = read_record({"dialog": [ASKED, SAID], "functions": TOOLS, "messages": 3, "tools": 4}, form)
    assert found == ChatRow([ASKED, SAID], TOOLS, "x", "last")
    with pytest.raises(DataError, match="needs .*; by the configuration's columns messages is 'dialog', tools is"):
        read_record({"messages": [ASKED, SAID]}, form)
    for wrong, says in (
        ({"columns": {"text": "prompt"}}, "columns has the name 'prompt' twice"),
        ({"columns": {"txt": "a"}}, "there is no field 'txt' .did you mean 'text'"),
        ({"assistant_turns": "first"}, "one of 'all', 'last'"),
    ):
        with pytest.raises(ConfigError, match=says):
            from_dict(Source, {"kind": "jsonl", "name": "a", "rows": wrong})
    with pytest.raises(ConfigError, match="has rows of its own form"):
        Source(kind="generated", name="game24", rows=form)
    assert Columns(text="content").names[0] == "content"


def test_a_prompt_is_learnt_where_the_configuration_says_so():
    form = RowFormat(completion_only_loss=False)
    assert read_record({"prompt": "q", "completion": "a"}, form) == row(("q", 1.0), ("a", 1.0))
    assert read_record({"prompt": [ASKED], "completion": [SAID]}, form) == ChatRow([ASKED, SAID])
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert read_record(pair, form) == read_record(pair)


@pytest.mark.parametrize("kind", ["text", "prompt", "messages"])
def test_control_tokens_in_a_record_are_text_unless_the_configuration_says_otherwise(kind):
    text = "a<|eos|>b<|user|>"
    record = {
        "text": {"text": text},
        "prompt": {"prompt": text, "completion": text},
        "messages": {"messages": [ASKED | {"content": text}, SAID | {"content": text}]},
    }[kind]
    counts = {}
    for reads in (False, True):
        tokens = encode_row(BYTES, read_record(record, RowFormat(read_special_tokens=reads))).tokens
        counts[reads] = [tokens.count(BYTES.token_to_id(token)) for token in ("<|eos|>", "<|user|>")]
    plain, read = {"text": ([1, 0], [2, 1]), "prompt": ([1, 0], [3, 2]), "messages": ([2, 1], [2, 1])}[kind]
    assert counts == {False: plain, True: read}


def test_pairs_as_tokens():
    pair = encode_pair(BYTES, read_record({"chosen": [ASKED, SAID], "rejected": [ASKED, OTHER]}))
    for answer, said in ((pair.chosen, "a"), (pair.rejected, "b")):
        assert BYTES.decode(answer.tokens) == f"<|user|>q<|eos|><|assistant|>{said}<|eos|>"
        assert answer.weights == [0.0] * 4 + [1.0] * 2


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({}, 'needs {"text": …}, {"prompt"'),
        ({"text": 3}, "holds int for a text; a row needs .*, all of them strings"),
        ({"prompt": "q", "completion": [SAID]}, "holds list for a text"),
        ({"text": "t", "chosen": "a"}, "has text beside chosen"),
        ({"messages": [ASKED, SAID], "prompt": "q"}, "has messages beside prompt"),
        ({"chosen": "a"}, "needs {"),
        ({"chosen": "a", "rejected": [OTHER]}, "both texts or both lists of messages"),
        ({"chosen": "a", "rejected": "a"}, "has no prompt, and chosen is the same as rejected"),
        ({"prompt": [ASKED], "chosen": [SAID], "rejected": [ASKED]}, "no message of the assistant in the completion"),
        ({"messages": [ASKED]}, "no message of the assistant, so there is nothing"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": [ASKED, {"role": "boss", "content": "x"}]}, "has the role 'boss'"),
        ({"messages": [ASKED, SAID], "tools": "x"}, "tools is 'x'; it is a list of mappings"),
        ({"text": "a\ud800"}, "half of a surrogate pair"),
    ],
)
def test_a_record_that_breaks_is_told_in_a_sentence(record, says):
    with pytest.raises(DataError, match=says):
        read_record(record)
