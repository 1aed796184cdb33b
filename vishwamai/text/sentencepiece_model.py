"""Reads a SentencePiece `.model` (Kudo and Richardson 2018, arXiv:1808.06226) into a `tokenizers` backend.

The file is one protocol buffer (sentencepiece_model.proto); its pieces, scores and normaliser become a Unigram or a BPE
model, so that all the rest of this room works on it, and no extra library is needed. It differs from SentencePiece in
two things: the text of a control piece (`<s>`) is read as that token unless `allow_special=False`, and spaces are put
in or taken away between two added tokens as at the ends of a text. It knows no folders and no settings but the names of
the special tokens.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from vishwamai.errors import TokenizerError
from vishwamai.text.backend import backend_errors, read_bounded
from vishwamai.text.settings import Settings

MAX_MODEL_BYTES = 64_000_000
SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclass(frozen=True)
class SentencePieceModel:
    """What of the file matters for encoding."""

    pieces: tuple[Piece, ...]
    kind: int = UNIGRAM
    byte_fallback: bool = False
    named: tuple[int, int, int, int] = (0, 1, 2, -1)  # The ids of unk, bos, eos, pad; -1 for none.
    charsmap: bytes = b""
    add_prefix: bool = True
    strip_spaces: bool = True


def load_sentencepiece(path: Path) -> tuple[Tokenizer, Settings]:
    """The tokenizer in a `.model` file and the names of its tokens. Raises `TokenizerError` for a damaged one."""
    raw = read_bounded(path, MAX_MODEL_BYTES)
    try:
        model = parse_model(raw)
    except (LookupError, ValueError, struct.error):
        raise TokenizerError(f"{path}: is not a SentencePiece model; is the file damaged?") from None
    if not model.pieces or model.kind not in (UNIGRAM, BPE):
        raise TokenizerError(f"{path}: is no SentencePiece model of kind unigram or BPE; other kinds are not read")
    with backend_errors(f"{path}: its pieces make no tokenizer"):
        backend = make_backend(model)
    unk, bos, eos, pad = (model.pieces[i].text if 0 <= i < len(model.pieces) else None for i in model.named)
    return backend, Settings(unk_token=unk, bos_token=bos, eos_token=eos, pad_token=pad)


def parse_model(raw: bytes) -> SentencePieceModel:
    """The parts of a ModelProto. Raises `ValueError`, `LookupError` or `struct.error` where it is none."""
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(dict(_fields(value))))
        elif number in (2, 3) and isinstance(value, bytes):
            (trainer if number == 2 else normalizer).update(_fields(value))

    def named(number: int, default: int) -> int:
        return _signed(trainer.get(number, default))

    return SentencePieceModel(
        pieces=tuple(pieces),
        kind=int(trainer.get(3, UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        named=(named(40, 0), named(41, 1), named(42, 2), named(43, -1)),
        charsmap=normalizer.get(2, b""),
        add_prefix=bool(normalizer.get(3, 1)),
        strip_spaces=bool(normalizer.get(4, 1)),
    )


def _piece(fields: dict[int, int | bytes]) -> Piece:
    text, score = fields[1], fields.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("a piece without text")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], int(fields.get(3, NORMAL)))


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (number, value) of each field of a message: an int for a varint, bytes for all else."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield key >> 3, value
            continue
        size, at = _varint(raw, at) if wire == 2 else ({1: 8, 5: 4}.get(wire, len(raw)), at)
        if at + size > len(raw):
            raise ValueError("a field longer than the file")
        yield key >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _signed(value: int | bytes) -> int:
    number = int(value)
    return number - (1 << 64) if number >> 63 else number


def make_backend(model: SentencePieceModel) -> Tokenizer:
    """The tokenizer of a model. What `tokenizers` throws for pieces that make none is thrown on."""
    unknown = model.pieces[model.named[0]].text if 0 <= model.named[0] < len(model.pieces) else None
    if model.kind == UNIGRAM:
        scores = [(piece.text, piece.score) for piece in model.pieces]
        core = models.Unigram(scores, unk_id=model.named[0] if unknown else None, byte_fallback=model.byte_fallback)
    else:
        vocab = {piece.text: index for index, piece in enumerate(model.pieces)}
        core = models.BPE(
            vocab, implied_merges(model.pieces), unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback
        )
    tokenizer = Tokenizer(core)
    tokenizer.normalizer = normalizers.Sequence(_normalizers(model))
    strip = [decoders.Strip(" ", 1, 0)] if model.add_prefix else []
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    tokenizer.decoder = decoders.Sequence(parts)
    add_tokens(tokenizer, [piece.text for piece in model.pieces], [piece.kind for piece in model.pieces])
    return tokenizer


def add_tokens(tokenizer: Tokenizer, texts: Sequence[str], kinds: Sequence[int]) -> None:
    """Makes the tokenizer find those of its tokens in a text before all else that are control or user-defined ones."""
    listed = list(zip(texts, kinds, strict=True))
    special = [AddedToken(text, normalized=False, special=True) for text, kind in listed if kind in (UNKNOWN, CONTROL)]
    others = [AddedToken(text, normalized=False, special=False) for text, kind in listed if kind == USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(others)


def _normalizers(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.strip_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.add_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]


def implied_merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """The merges that a BPE vocabulary implies: each way to make a piece of two others, by the made piece's score."""
    ranks = {p.text: index for index, p in enumerate(pieces) if p.kind in (NORMAL, USER_DEFINED, UNUSED)}
    merges = []
    for piece in (piece for piece in pieces if piece.kind in (NORMAL, USER_DEFINED)):
        halves = [(piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text))]
        known = [half for half in halves if half[0] in ranks and half[1] in ranks]
        merges += [(-piece.score, ranks[left], ranks[right], left, right) for left, right in known]
    return [(left, right) for *_, left, right in sorted(merges)]
