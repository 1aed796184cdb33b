"""The face of the tokenizer: what encode, decode, save and load give, and what they refuse."""

import json

import jax
import numpy as np
import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text.tokenizer import VishwamAITokenizer

from .conftest import HARD_TEXTS


@pytest.fixture
def plain_bytes():
    return VishwamAITokenizer.bytes()


def test_encode_gives_a_list_or_one_row_of_int32(trained):
    ids = trained.encode("the cat")
    row = trained.encode("the cat", return_tensors="np")
    device = trained.encode("the cat", return_tensors="jax")
    assert isinstance(ids, list) and row.tolist() == [ids] and row.dtype == np.int32
    assert isinstance(device, jax.Array) and device.dtype == np.int32 and device.tolist() == [ids]
    assert trained.encode("", return_tensors="jax").shape == (1, 0)


def test_special_tokens_in_text_are_read_only_where_allowed(trained):
    text = "a<|eos|>b<|user|>"
    eos, user = trained.token_to_id("<|eos|>"), trained.token_to_id("<|user|>")
    assert {eos, user} <= set(trained.encode(text))
    assert not {eos, user} & set(trained.encode(text, allow_special=False))
    only = trained.encode(text, allow_special=["<|user|>"])
    assert user in only and eos not in only
    assert trained.decode(only) == trained.decode(trained.encode(text)) == text
    assert trained.decode(trained.encode(text), skip_special_tokens=True) == "ab"


def test_bos_and_eos_go_round_a_text_where_settings_say_so(plain_bytes):
    framed = plain_bytes.with_tokens(add_bos=True, add_eos=True)
    assert framed.encode("ab") == [256, 97, 98, 257]
    assert framed.encode("<|eos|>", allow_special=False) == [256, *b"<|eos|>", 257]
    assert framed.encode("ab", add_special_tokens=False) == plain_bytes.encode("ab") == [97, 98]
    assert framed.batch_encode(["abcdef"], truncation=True, max_length=4).input_ids == [[256, 97, 98, 257]]


def test_decode_takes_lists_arrays_and_one_id(plain_bytes):
    for ids in ([104, 105], np.array([104, 105], np.int32), jax.numpy.array([104, 105]), (104, 105)):
        assert plain_bytes.decode(ids) == "hi"
    assert plain_bytes.decode(104) == "h" and plain_bytes.decode([]) == ""
    assert plain_bytes.batch_decode(np.array([[104, 105], [257, 106]]), skip_special_tokens=True) == ["hi", "j"]


@pytest.mark.parametrize("ids", [[-1], [0, 2**31], [2**70], np.array([-5])])
def test_ids_that_no_vocabulary_has_are_refused(plain_bytes, ids):
    with pytest.raises(TokenizerError, match=f"id {ids[-1]} is no token of any vocabulary"):
        plain_bytes.decode(ids)


@pytest.mark.parametrize(
    "ids", [[[[1, 2]]], [1.5], [True], ["a"], (2**70,), np.zeros((1, 1, 1), int), [[1.5]], [1, [2]]]
)
def test_what_is_no_row_of_ids_is_refused(plain_bytes, ids):
    with pytest.raises(InputError, match="whole numbers in one row"):
        plain_bytes.decode(ids)


def test_ids_beyond_the_vocabulary_and_holes_in_it_have_no_text(plain_bytes):
    assert plain_bytes.decode([104, 263, 105, 2**31 - 1]) == "hi" and plain_bytes.decode(999) == ""
    assert plain_bytes.decode([[104, 300], [300]], skip_special_tokens=True) == ["h", ""]
    holes = VishwamAITokenizer(Backend(models.WordLevel({"a": 0, "b": 5}, unk_token="a")))
    assert holes.decode([3, 5, 6, 0]) == "b a"


def test_decode_takes_a_batch(plain_bytes):
    batches = [[104, 105], [257, 106]], [[104], [105, 106, 107]], [np.array([104]), np.array([105])]
    for rows in (*batches, np.array(batches[0]), jax.numpy.array(batches[0])):
        assert plain_bytes.decode(rows, True) == [plain_bytes.decode(row, True) for row in rows]
    assert plain_bytes.decode([[]]) == [""] and plain_bytes.decode([]) == ""


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda t: t.encode("a", return_tensors="pt"), InputError, "return_tensors is 'pt'"),
        (lambda t: t.encode(b"a"), InputError, "a text is bytes"),
        (lambda t: t.encode("ab\ud800"), TokenizerError, "lone surrogate at character 2"),
        (lambda t: t.encode("ab\udfff", allow_special=False), TokenizerError, "lone surrogate"),
        (lambda t: t.encode("a" * (2**23 + 1)), TokenizerError, "8,388,609 characters"),
        (lambda t: t.batch_encode("abc"), InputError, "takes a list"),
        (lambda t: t.batch_encode(["a", "bc"], return_tensors="np"), InputError, "different lengths"),
        (lambda t: t.batch_encode(["a"], padding="short"), InputError, "padding is 'short'"),
        (lambda t: t.batch_encode(["a"], padding_side="top"), InputError, "padding_side is 'top'"),
        (lambda t: t.batch_encode(["a"], truncation=True), InputError, "give max_length"),
        (lambda t: t.batch_encode(["a"], truncation=True, max_length=-3), InputError, "max_length is -3"),
        (lambda t: t.with_tokens(pad_token=None).batch_encode(["a", "bc"], padding=True), TokenizerError, "no pad"),
        (lambda t: t.batch_encode(["a"], truncation=True, max_length=2.5), InputError, "max_length is 2.5"),
        (lambda t: t.batch_encode(["a"], padding="max_length", max_length="2"), InputError, "max_length is '2'"),
        (lambda t: t.batch_encode(["a"], truncation=True, max_length=True), InputError, "max_length is True"),
        (lambda t: t.batch_encode(["abc"], max_length=2), InputError, "max_length=2 would do nothing: pass trunc"),
        (lambda t: t.batch_encode(["abc"], max_length=2, padding=True), InputError, "would do nothing"),
        (lambda t: t.encode(["a", "b"]), InputError, "a text is list, not str; for several texts call the tokenizer"),
        (lambda t: t({"a": 1}), InputError, "a text is dict; give a text or a list of texts"),
        (lambda t: t("a", return_tensors="pt"), InputError, 'return_tensors is \'pt\'; it is "jax" or "np"'),
        (lambda t: t("a", truncation="only_first", max_length=3), InputError, "truncation is 'only_first'"),
        (lambda t: t("a", ["b"]), InputError, "text is one text and text_pair several"),
        (lambda t: t(["a"], "b"), InputError, "text has 1 texts; text_pair must be a list of as many"),
        (lambda t: t([("a", "b"), "c"]), InputError, "a text is tuple"),
        (lambda t: t([("a", None)]), InputError, "a text is NoneType"),
        (lambda t: t(["a"], ["b", "c"]), InputError, "text has 1 texts; text_pair must be a list of as many"),
        (lambda t: t.with_tokens(colour="red"), InputError, "colour"),
    ],
)
def test_bad_input_is_refused(plain_bytes, call, kind, said):
    with pytest.raises(kind, match=said):
        call(plain_bytes)


def test_save_and_load_are_identical(trained, tmp_path):
    template = "{% for m in messages %}{{ m.content }}\r\n{% endfor %}\n"
    before = trained.with_tokens(add_bos=True, max_length=128, templates=(("default", template), ("tool_use", "x")))
    before.save_pretrained(tmp_path)
    after = VishwamAITokenizer.from_folder(tmp_path)
    assert after.chat_template == template and dict(after.settings.templates)["tool_use"] == "x"
    assert after.settings.max_length == 128
    for text in HARD_TEXTS:
        assert after.encode(text) == before.encode(text)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "special_ids", "vocab_size"):
        assert getattr(after, name) == getattr(before, name)
    after.save_pretrained(tmp_path / "again")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()


@pytest.mark.parametrize("name", ["file", "file/x", "full"])
def test_a_folder_that_cannot_be_written_is_named(plain_bytes, tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "full" / "tokenizer.json").mkdir(parents=True)
    with pytest.raises(TokenizerError, match=f"{name}: cannot be written to .*; name another folder"):
        plain_bytes.save_pretrained(tmp_path / name)


def test_from_pretrained_takes_a_folder_without_weights(plain_bytes, tmp_path):
    plain_bytes.save_pretrained(tmp_path)
    assert VishwamAITokenizer.from_pretrained(tmp_path).encode("hi") == [104, 105]
    assert VishwamAITokenizer.from_pretrained(str(tmp_path)).eos_token_id == 257


def test_with_tokens_leaves_the_first_as_it_was(plain_bytes):
    other = plain_bytes.with_tokens(pad_token="<new>")
    assert other.pad_token_id == 263 and len(other) == 264
    assert len(plain_bytes) == 263 and plain_bytes.pad_token == "<|pad|>"


def test_missing_folder_and_files_are_named(tmp_path):
    with pytest.raises(TokenizerError, match="nowhere: is not a folder"):
        VishwamAITokenizer.from_folder(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match="neither tokenizer.json nor tokenizer.model"):
        VishwamAITokenizer.from_folder(tmp_path)
    with pytest.raises(TokenizerError, match="cannot be read"):
        VishwamAITokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "[" * 100_000,
        '{"model":{"type":"BPE","vocab":{},"merges":[]}}',
        '{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}',
        '{"model":{"type":"BPE","vocab":{"a":4294967295},"merges":[]}}',
        '{"model":{"type":"BPE","vocab":{"a":4294967296},"merges":[]}}',
        '{"model":{"type":"BPE","vocab":{"a":0},"merges":[["a","b"]]}}',
    ],
)
def test_damaged_tokenizer_files_are_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match="tokenizer"):
        VishwamAITokenizer.from_folder(tmp_path)


def test_truncated_and_invalid_files_are_refused(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    trained.save_pretrained(tmp_path)
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"\xff" + whole):
        path.write_bytes(damage)
        with pytest.raises(TokenizerError, match="damaged"):
            VishwamAITokenizer.from_folder(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(TokenizerError, match="not a regular file"):
        VishwamAITokenizer.from_folder(tmp_path)


def test_a_panic_in_the_library_is_an_error_of_ours(capfd):
    backend = VishwamAITokenizer.bytes().backend
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("(a+)+$"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    with pytest.raises(TokenizerError, match="could not be encoded"):
        VishwamAITokenizer(backend).encode("a" * 40 + "b")
    capfd.readouterr()


def test_normalizers_that_grow_without_bound_are_refused():
    backend = VishwamAITokenizer.bytes().backend
    for doublings in (7, 30):
        backend.normalizer = normalizers.Sequence([normalizers.Replace("a", "aa")] * doublings)
        with pytest.raises(TokenizerError, match="refused as hostile"):
            VishwamAITokenizer(backend)
    backend.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁"), normalizers.Prepend("▁")])
    VishwamAITokenizer(backend)


def test_padding_and_truncation_in_the_file_are_switched_off(plain_bytes):
    plain_bytes.backend.enable_truncation(2)
    plain_bytes.backend.enable_padding(length=8)
    assert VishwamAITokenizer(plain_bytes.backend).encode("abcd") == [97, 98, 99, 100]


def test_named_tokens_are_control_tokens_and_a_mere_unknown_is_not():
    backend = VishwamAITokenizer.bytes().backend
    backend.add_tokens(["<end>", "<unk>"])
    tokenizer = VishwamAITokenizer(backend).with_tokens(eos_token="<end>", unk_token="<unk>")
    assert tokenizer.control_ids == tokenizer.special_ids - {264} == VishwamAITokenizer.bytes().special_ids | {263}
    assert tokenizer.encode("<end>") == [263] and tokenizer.encode("<end>", allow_special=False) == list(b"<end>")
    assert 264 in tokenizer.with_tokens(pad_token="<unk>").control_ids


def test_flags_beside_a_tokenizer_json_do_not_change_it(plain_bytes, tmp_path):
    plain_bytes.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<|bos|>", "add_bos_token": true}')
    assert VishwamAITokenizer.from_folder(tmp_path).encode("a") == [97]


def test_holes_in_the_ids_count_for_the_embedding():
    backend = Backend(models.WordLevel({"a": 0, "b": 5}, unk_token="a"))
    tokenizer = VishwamAITokenizer(backend)
    assert (len(tokenizer), tokenizer.vocab_size) == (6, 2)
    assert tokenizer.id_to_token(3) is None and tokenizer.id_to_token(-1) is None


def test_a_call_gives_what_transformers_gives(plain_bytes):
    framed = plain_bytes.with_tokens(add_bos=True)
    one = framed("hi")
    assert (
        dict(one) == {"input_ids": [256, 104, 105], "attention_mask": [1, 1, 1]} and one.input_ids == one["input_ids"]
    )
    assert (lambda **given: given)(**one) == dict(one)
    both = framed(["hi", "abc"], padding=True, padding_side="left")
    assert both.input_ids == [[258, 256, 104, 105], [256, 97, 98, 99]]
    assert both.attention_mask == [[0, 1, 1, 1], [1, 1, 1, 1]]
    array = framed("hi", return_tensors="jax")
    assert isinstance(array.input_ids, jax.Array) and array.input_ids.tolist() == [[256, 104, 105]]
    assert dict(framed([])) == {"input_ids": [], "attention_mask": []}


def test_a_call_with_pairs(plain_bytes):
    framed = plain_bytes.with_tokens(add_bos=True, add_eos=True)
    pair = framed("a", "bc", return_token_type_ids=True)
    assert pair.input_ids == [256, 97, 257, 256, 98, 99, 257] and pair.token_type_ids == [0, 0, 0, 1, 1, 1, 1]
    assert "token_type_ids" not in framed("a", "bc")
    two = framed(["a", "b"], ["c", "de"], padding=True, return_token_type_ids=True)
    for pairs in ([("a", "c"), ("b", "de")], [["a", "c"], ["b", "de"]]):
        assert framed(pairs, padding=True, return_token_type_ids=True) == two
    assert two.input_ids[0] == [256, 97, 257, 256, 99, 257, 258] and two.token_type_ids[0] == [0, 0, 0, 1, 1, 1, 0]
    cut = framed("abcdef", "xyz", truncation=True, max_length=8)
    assert cut.input_ids == [256, 97, 98, 257, 256, 120, 121, 257]
    assert framed("ab", "uvwxyz", truncation="longest_first", max_length=9).input_ids[1:3] == [97, 98]
    with pytest.raises(InputError, match="max_length 3 leaves no room for the 4 special tokens"):
        framed("a", "b", truncation=True, max_length=3)


def test_tokens_and_ids_by_the_names_of_transformers(plain_bytes):
    t = plain_bytes.with_tokens(max_length=77, special_tokens=("<|user|>",))
    assert t.convert_tokens_to_ids("h") == 104 and t.convert_tokens_to_ids(["h", "<|eos|>", "no"]) == [104, 257, None]
    assert t.with_tokens(unk_token="<|pad|>").convert_tokens_to_ids("no") == 258
    assert t.convert_ids_to_tokens(257) == "<|eos|>" and t.convert_ids_to_tokens(999) is None
    assert t.convert_ids_to_tokens([104, 257, 999], skip_special_tokens=True) == ["h", None]
    assert t.tokenize("h<|eos|>") == ["h", "<|eos|>"] and t.tokenize("a", "b") == ["a", "b"]
    assert t.with_tokens(add_bos=True).tokenize("a", add_special_tokens=True) == ["<|bos|>", "a"]
    assert t.all_special_tokens == ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>"]
    assert t.all_special_ids == [256, 257, 258, t.token_to_id("<|user|>")]
    assert (t.model_max_length, plain_bytes.model_max_length) == (77, int(1e30))
    assert t.get_vocab()["<|eos|>"] == 257 and len(t.get_vocab()) == len(t)


@pytest.mark.parametrize("name", ["pad_token", "pad_token_id", "settings"])
def test_nothing_of_a_tokenizer_is_set_anew(plain_bytes, name):
    with pytest.raises(InputError, match=r"take another one: tokenizer.with_tokens\("):
        setattr(plain_bytes, name, "<|eos|>")
    assert plain_bytes.pad_token_id == 258


def test_settings_of_the_wrong_type_are_refused(plain_bytes, tmp_path):
    plain_bytes.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    for wrong in ({"eos_token": 3}, {"add_bos_token": "yes"}, {"added_tokens_decoder": {"x": {}}}, {"pad_token": ""}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(TokenizerError, match="tokenizer_config.json"):
            VishwamAITokenizer.from_folder(tmp_path)
    path.write_text('{"eos_token": NaN}')
    with pytest.raises(TokenizerError, match="tokenizer_config.json"):
        VishwamAITokenizer.from_folder(tmp_path)
