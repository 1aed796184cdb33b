"""A tokenizer that was read of a GGUF file and saved as a Hugging Face folder, in transformers."""

import pytest

from vishwamai.gguf.vocabulary import make_tokenizer

from ..gguf.test_llama_cpp_ids import byte_level_metadata, sentencepiece_metadata, texts
from ..gguf.test_vocabulary import byte_level, pieces

transformers = pytest.importorskip("transformers", reason="transformers is the reference here; make parity installs it")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TEMPLATE = "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}</s>\n{% endfor %}"
CASES = {
    "bytes": lambda: byte_level(pre="qwen2", padding_token_id=262),
    "bytes with a start token": byte_level,
    "bytes with both": lambda: byte_level(add_eos_token=True),
    "deepseek-v3": lambda: byte_level_metadata() | {"tokenizer.ggml.pre": "deepseek-v3"},
    "gpt-4o": lambda: byte_level_metadata() | {"tokenizer.ggml.pre": "gpt-4o"},
    "pieces": pieces,
    "pieces without prefix": lambda: sentencepiece_metadata(prefix=False),
    "phi-3": lambda: pieces() | {"general.name": "phi3"},
}


@pytest.mark.parametrize("case", CASES)
def test_saved_as_a_folder(case, tmp_path):
    ours = make_tokenizer(CASES[case]() | {"tokenizer.chat_template": TEMPLATE}, "a.gguf")
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*texts(), "<s> a</s>  b<think> <unk>", "abc ab"]:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special_tokens=skip) == expected
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)
    messages = [{"role": "user", "content": "hi"}]
    assert ours.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(messages, tokenize=False)
