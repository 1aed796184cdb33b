"""`apply_chat_template`: the shapes and arguments of Hugging Face's tokenizers, with typed text kept text."""

import numpy as np
import pytest

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text.chat import encode_chat, render
from vishwamai.text.tokenizer import VishwamAITokenizer

TALK = [{"role": "user", "content": "hi <|eos|>"}, {"role": "assistant", "content": "yes"}]
OTHER = [{"role": "user", "content": "a longer question"}]


@pytest.fixture(scope="module")
def own() -> VishwamAITokenizer:
    return VishwamAITokenizer.bytes()


def test_one_conversation_is_flat(own):
    batch = own.apply_chat_template(TALK)
    assert batch["input_ids"] == encode_chat(own, TALK, add_generation_prompt=False)
    assert batch["attention_mask"] == [1] * len(batch.input_ids) and "assistant_masks" not in batch
    asked = own.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    assert asked == encode_chat(own, TALK) == [*batch.input_ids, own.token_to_id("<|assistant|>")]
    array = own.apply_chat_template(TALK, return_tensors="np").input_ids
    assert array.tolist() == [batch.input_ids] and array.dtype == np.int32


def test_several_are_a_batch_padded_and_cut(own):
    rows = [encode_chat(own, talk, add_generation_prompt=False) for talk in (TALK, OTHER)]
    batch = own.apply_chat_template([TALK, OTHER])
    assert batch.input_ids == rows and batch.attention_mask == [[1] * len(row) for row in rows]
    padded = own.apply_chat_template([TALK, OTHER], padding=True, padding_side="left", return_tensors="np")
    gap = len(rows[0]) - len(rows[1])
    assert gap and padded.input_ids[1].tolist() == [own.pad_token_id] * gap + rows[1]
    assert padded.attention_mask[1].tolist() == [0] * gap + [1] * len(rows[1])
    cut = own.apply_chat_template([TALK, OTHER], truncation=True, max_length=5)
    assert cut.input_ids == [row[:5] for row in rows]
    assert own.apply_chat_template([OTHER], return_dict=False) == [rows[1]]


def test_texts(own):
    text = own.apply_chat_template(TALK, tokenize=False)
    assert text == "<|user|>hi <|eos|><|eos|><|assistant|>yes<|eos|>"
    assert own.apply_chat_template([TALK, OTHER], tokenize=False)[0] == text


def test_tools_documents_and_variables(own):
    template = "{{ tools | tojson if tools }}{{ documents | tojson if documents }}{{ messages[0].content }}{{ effort }}"
    given = {"chat_template": template, "tokenize": False}
    tools, documents = [{"name": "f"}], [{"text": "d"}]
    assert own.apply_chat_template(OTHER, tools, **given) == '[{"name": "f"}]a longer question'
    text = own.apply_chat_template(OTHER, documents=documents, effort="high", **given)
    assert (
        text
        == '[{"text": "d"}]a longer questionhigh'
        == render(OTHER, template, documents=documents, variables={"effort": "high"})
    )


def test_masks_of_the_assistants_tokens(own):
    batch = own.apply_chat_template([TALK, OTHER], return_assistant_tokens_mask=True, padding=True)
    masked = [i for i, on in zip(batch.input_ids[0], batch.assistant_masks[0], strict=True) if on]
    assert own.decode(masked) == "yes<|eos|>" and batch.assistant_masks[1] == [0] * len(batch.input_ids[0])
    flat = own.apply_chat_template(TALK, return_assistant_tokens_mask=True, truncation=True, max_length=14)
    assert len(flat.assistant_masks) == 14 and sum(flat["assistant_masks"]) > 0


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"add_generation_promt": True}, InputError, "'add_generation_promt'.*; did you mean add_generation_prompt?"),
        ({"enable_thinking": False}, InputError, "the chat template reads no variable 'enable_thinking'.*leave it out"),
        ({"variables": {"messages": []}}, InputError, "variables has 'messages', which has an argument of its own"),
        ({"variables": {"tools": []}}, InputError, "variables has 'tools'"),
        ({"max_length": 3}, InputError, "max_length=3 would do nothing"),
        ({"return_tensors": "pt"}, InputError, "return_tensors is 'pt'"),
        ({"chat_template": "rag"}, InputError, "no chat template 'rag'"),
        ({"tools": [{"name": "f"}]}, InputError, "does not read tools"),
        ({"documents": [{"text": "f"}]}, InputError, "does not read documents"),
        ({"tools": {"name": "f"}}, InputError, "tools is .*; it is a list of mappings"),
        ({"tools": [print]}, InputError, "tools is .*; it is a list of mappings"),
        ({"variables": {"effort": 1}}, InputError, "reads no variable 'effort'; there are"),
        ({"continue_final_message": True, "add_generation_prompt": True}, InputError, "leave one of them out"),
        ({"continue_final_message": True, "return_assistant_tokens_mask": True}, InputError, "for a part"),
        ({"continue_final_message": "thinking"}, InputError, "finds no text in the thinking of the last message"),
        ({"chat_template": "{% if %}"}, TokenizerError, "TemplateSyntaxError"),
    ],
)
def test_bad_arguments_are_refused(own, given, kind, says):
    with pytest.raises(kind, match=says):
        own.apply_chat_template(TALK, **given)


def test_no_conversation_is_refused(own):
    for nothing in ([], [[]], "hello", None, {"role": "user", "content": "x"}):
        with pytest.raises(InputError, match="messages must be a list"):
            own.apply_chat_template(nothing)
