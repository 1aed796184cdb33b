"""Which file wins where several name special tokens: ours against transformers' own reading of the same folder.

Each case is a folder as a publisher (or an older version of transformers) would leave it. Compared are the names and
ids of special tokens, what is skipped when ids are decoded, and the ids of texts that hold these tokens.
"""

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from vishwamai.text.bpe import byte_alphabet
from vishwamai.text.tokenizer import VishwamAITokenizer

transformers = pytest.importorskip("transformers", reason="transformers is the reference here; make parity installs it")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

PLAIN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
TYPED = {"__type": "AddedToken", **PLAIN}
IN_FILE = {256: "<s>", 257: "</s>"}  # special in tokenizer.json; <turn> is 258 and not special there
WORDS = ["<s>", "</s>", "<turn>", "<pad>", "<a>", "<b>", "<c>", "<img>"]


def listed(**tokens):
    """An `added_tokens_decoder`: {id: (text, special)} with the ids as `_258`."""
    return {i[1:]: {"content": text, "special": special, **PLAIN} for i, (text, special) in tokens.items()}


# name: {file: content}, in the dialects of transformers 4 and 5.
FOLDERS = {
    "named alone": {"tokenizer_config": {"bos_token": "<s>", "eos_token": "<turn>"}},
    "declared special": {"tokenizer_config": {"added_tokens_decoder": listed(_258=("<turn>", True))}},
    "declared special and named": {
        "tokenizer_config": {"eos_token": "<turn>", "added_tokens_decoder": listed(_258=("<turn>", False))}
    },
    "declared plain": {"tokenizer_config": {"added_tokens_decoder": listed(_257=("</s>", False))}},
    "added by the list": {
        "tokenizer_config": {"added_tokens_decoder": listed(_260=("<b>", False), _259=("<a>", True))}
    },
    "flags of the list": {
        "tokenizer_config": {"added_tokens_decoder": {"258": {"content": "<turn>", **PLAIN, "lstrip": True}}}
    },
    "map over configuration": {
        "tokenizer_config": {"eos_token": "</s>", "pad_token": "<pad>"},
        "special_tokens_map": {"eos_token": "<turn>", "pad_token": {"content": "<a>", **PLAIN}},
    },
    "list over map": {
        "tokenizer_config": {"eos_token": "</s>", "added_tokens_decoder": listed(_258=("<turn>", False))},
        "special_tokens_map": {"eos_token": "<turn>", "pad_token": "<a>"},
    },
    "map alone": {"special_tokens_map": {"eos_token": "<turn>", "additional_special_tokens": ["<a>", "<b>"]}},
    "both lists": {
        "tokenizer_config": {"additional_special_tokens": ["<a>", "<turn>"], "extra_special_tokens": ["<b>", "<c>"]}
    },
    "old list": {
        "tokenizer_config": {"additional_special_tokens": ["<a>", {"content": "<b>", **TYPED, "special": True}]}
    },
    "old list in both files": {
        "tokenizer_config": {"additional_special_tokens": ["<a>"]},
        "special_tokens_map": {"additional_special_tokens": ["<b>"]},
    },
    "new list in both files": {
        "tokenizer_config": {"extra_special_tokens": ["<a>"]},
        "special_tokens_map": {"extra_special_tokens": ["<b>", "<a>"]},
    },
    "a name, an old list and the map's old list": {
        "tokenizer_config": {"additional_special_tokens": ["<a>"], "extra_special_tokens": {"image_token": "<img>"}},
        "special_tokens_map": {"additional_special_tokens": ["<c>"]},
    },
    "a name and the map's list": {
        "tokenizer_config": {"extra_special_tokens": {"image_token": "<img>"}},
        "special_tokens_map": {"extra_special_tokens": ["<pad>"]},
    },
    "an empty old list and the map's": {
        "tokenizer_config": {"additional_special_tokens": []},
        "special_tokens_map": {"additional_special_tokens": ["<c>"]},
    },
    "a list and the map's empty names": {
        "tokenizer_config": {"extra_special_tokens": ["<b>"]},
        "special_tokens_map": {"extra_special_tokens": {}},
    },
    "a name in both files": {
        "tokenizer_config": {"image_token": "<img>"},
        "special_tokens_map": {"image_token": "<a>", "own_token": "<b>"},
    },
    "names of the model's own": {
        "tokenizer_config": {"image_token": "<img>", "extra_special_tokens": {"audio_token": "<a>"}}
    },
    "added_tokens.json": {
        "tokenizer_config": {"eos_token": "</s>"},
        "added_tokens": {"<b>": 260, "<a>": 259},
    },
    "added_tokens.json with named ones": {
        "tokenizer_config": {"pad_token": "<a>", "additional_special_tokens": ["<b>"]},
        "added_tokens": {"<a>": 260, "<b>": 259, "<turn>": 258},
    },
    "added_tokens.json beside the list": {
        "tokenizer_config": {"added_tokens_decoder": listed(_259=("<a>", True))},
        "added_tokens": {"<b>": 260},
    },
    "names in their order": {
        "tokenizer_config": {"pad_token": "<a>", "unk_token": "<b>", "mask_token": "<c>", "sep_token": "<img>"}
    },
    "an object with flags": {"tokenizer_config": {"mask_token": {"content": "<c>", **TYPED, "lstrip": True}}},
    "padding of tokenizer.json": {"padding": {"pad_id": 258, "pad_token": "<turn>", "direction": "left"}},
    "padding of tokenizer.json and a name": {
        "padding": {"pad_id": 258, "pad_token": "<turn>", "direction": "left"},
        "tokenizer_config": {"pad_token": "</s>"},
    },
    "padding of tokenizer.json and none": {
        "padding": {"pad_id": 258, "pad_token": "<turn>", "direction": "left"},
        "tokenizer_config": {"pad_token": None},
    },
    "a side to pad": {"tokenizer_config": {"pad_token": "</s>", "padding_side": "left"}},
    "type ids": {
        "tokenizer_config": {
            "pad_token": "</s>",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        }
    },
}


def backend() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(byte_alphabet())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in IN_FILE.values()])
    tokenizer.add_tokens([AddedToken("<turn>", special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    return tokenizer


@pytest.fixture(scope="module", params=FOLDERS)
def both(request, tmp_path_factory):
    """(ours, theirs) of one folder."""
    folder, files = tmp_path_factory.mktemp("folder"), dict(FOLDERS[request.param])
    tokenizer = backend()
    if "padding" in files:
        tokenizer.enable_padding(**files.pop("padding"))
    tokenizer.save(str(folder / "tokenizer.json"))
    files["tokenizer_config"] = {"tokenizer_class": "PreTrainedTokenizerFast", **files.get("tokenizer_config", {})}
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return VishwamAITokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)


def test_names_and_ids(both):
    ours, theirs = both
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        assert (name, getattr(ours, name)) == (name, getattr(theirs, name))
        assert (name, getattr(ours, f"{name}_id")) == (name, getattr(theirs, f"{name}_id"))
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert ours.get_vocab() == theirs.get_vocab() and ours.model_max_length == theirs.model_max_length


def test_texts_that_hold_the_tokens(both):
    ours, theirs = both
    for word in WORDS:
        text = f"x {word} y{word}"
        ids = theirs.encode(text)
        assert ours.encode(text) == ids and ours.tokenize(text) == theirs.tokenize(text)
        assert ours.convert_tokens_to_ids([word, "x"]) == theirs.convert_tokens_to_ids([word, "x"])
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip), word
    assert ours.decode([[120], [999, 121]]) == theirs.decode([[120], [999, 121]]) == ["x", "y"]


OPTIONS = [
    {},
    {"padding": True},
    {"truncation": True, "max_length": 9},
    {"add_special_tokens": False},
    {"padding": "max_length", "truncation": True, "max_length": 8, "padding_side": "left"},
    {"padding": True, "return_tensors": "np"},
    {"return_token_type_ids": True, "padding": True},
]


@pytest.mark.parametrize("texts", [
    ("hello",), ("hello", "you there"), (["a", "hello"],), (["a", "hello there"], ["you", "b"]),
], ids=["text", "pair", "texts", "pairs"])  # fmt: skip
def test_calls(both, texts):
    ours, theirs = both
    for options in OPTIONS:
        if "padding" in options and theirs.pad_token is None:
            continue
        expected, found = theirs(*texts, **options), ours(*texts, **options)
        assert set(found) == set(expected), options
        for name, values in expected.items():
            assert np.array(found[name], object).tolist() == np.array(values, object).tolist(), (name, options)


def test_what_we_save_is_read_alike(both, tmp_path):
    ours, _ = both
    ours.save_pretrained(tmp_path)
    again, theirs = VishwamAITokenizer.from_folder(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for word in WORDS:
        ids = ours.encode(f"x{word}")
        assert again.encode(f"x{word}") == theirs.encode(f"x{word}") == ids
        assert again.decode(ids, True) == theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids, True)
    assert again.all_special_tokens == theirs.all_special_tokens == ours.all_special_tokens
    assert again("a", "b", return_token_type_ids=True) == ours("a", "b", return_token_type_ids=True)
