"""SentencePiece models against SentencePiece itself, and damaged files."""

import io
import random
import struct

import pytest

from vishwamai.errors import TokenizerError
from vishwamai.text.sentencepiece_model import parse_model
from vishwamai.text.tokenizer import VishwamAITokenizer

WHY = "the sentencepiece library is not installed: it is the reference of these tests (extra `sentencepiece`)"
KINDS = {
    "llama": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "bpe": {"model_type": "bpe", "add_dummy_prefix": False, "user_defined_symbols": ["<ok>"]},
    "unigram": {"model_type": "unigram", "byte_fallback": True},
    "unigram without bytes": {"model_type": "unigram", "pad_id": 3},
}
TEXTS = ["  two  spaces ", "new\nline\ttab", "🙂🙂 q", "", " ", "<ok>a<ok>b", " a", "ﬁ ２ é e\u0301", "zz\0z"]


def corpus() -> list[str]:
    choose = random.Random(0)
    words = ["".join(choose.choices("abcdeéß你好", k=choose.randrange(1, 7))) for _ in range(150)]
    return [" ".join(choose.choices(words, k=12)) for _ in range(300)] + ["12 + 34 = 46, <ok> fine"] * 20


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece", reason=WHY)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=out,
        vocab_size=400,
        hard_vocab_limit=False,
        minloglevel=2,
        **KINDS[request.param],
    )
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(out.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path)), path


def test_ids_and_text_are_sentencepieces(pair):
    reference, path = pair
    tokenizer = VishwamAITokenizer.from_folder(path.parent)
    for text in corpus()[:100] + TEXTS:
        ids = reference.encode(text)
        assert tokenizer.encode(text) == ids
        if reference.unk_id() not in ids:  # SentencePiece writes " ⁇ " for it.
            assert tokenizer.decode(ids) == reference.decode(ids)


def test_special_tokens_are_those_of_the_file(pair):
    reference, path = pair
    tokenizer = VishwamAITokenizer.from_file(path)
    assert tokenizer.vocab_size == reference.vocab_size()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (reference.bos_id(), reference.eos_id())
    assert tokenizer.unk_token_id == reference.unk_id()
    assert tokenizer.pad_token_id == (reference.pad_id() if reference.pad_id() >= 0 else None)
    eos = tokenizer.eos_token_id
    assert eos in tokenizer.encode("a</s>b") and eos not in tokenizer.encode("a</s>b", allow_special=False)


def test_saved_and_loaded_again(pair, tmp_path):
    tokenizer = VishwamAITokenizer.from_file(pair[1])
    tokenizer.save_pretrained(tmp_path)
    again = VishwamAITokenizer.from_folder(tmp_path)
    for text in corpus()[:20] + TEXTS:
        assert again.encode(text) == tokenizer.encode(text)


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def piece(text: bytes, score: float = 0.0, kind: int = 1) -> bytes:
    return field(1, field(1, text) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))


def test_parts_of_the_file():
    trainer = field(2, b"\x18\x02\x98\x02\x01\xd8\x02" + b"\xff" * 9 + b"\x01")
    model = parse_model(piece(b"<unk>", 0, 2) + piece("▁a".encode(), -1.5) + trainer + field(3, b"\x18\x00"))
    assert [(p.text, p.score, p.kind) for p in model.pieces] == [("<unk>", 0.0, 2), ("▁a", -1.5, 1)]
    assert (model.kind, model.byte_fallback, model.named) == (2, True, (0, 1, 2, -1))
    assert (model.add_prefix, model.strip_spaces) == (False, True)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"not a model at all",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\x7fabc",
        piece(b"<unk>")[:-3],
        piece(b"\xff\xfe"),
        piece(b"<unk>", 0, 2) + field(2, b"\x18\x04"),
        field(1, b"\x15\0\0\0\0"),
        b"\x80" * 100,
        piece(b"<unk>", 0, 2) + b"\x1a\x20\x18\x01",  # Ends within a field whose first half is sound.
    ],
)
def test_damaged_files_are_refused(tmp_path, raw):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(raw)
    with pytest.raises(TokenizerError, match="tokenizer.model"):
        VishwamAITokenizer.from_folder(tmp_path)


def test_every_cut_of_a_real_file_is_refused_or_read(pair, tmp_path):
    raw = pair[1].read_bytes()
    path = tmp_path / "cut.model"
    for end in range(0, len(raw), len(raw) // 40):
        path.write_bytes(raw[:end])
        try:
            VishwamAITokenizer.from_file(path)
        except TokenizerError:
            continue
