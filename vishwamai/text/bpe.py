"""New tokenizers: byte-level BPE trained on a stream of text (Sennrich et al. 2016, arXiv:1508.07909), and plain bytes.

Every string of UTF-8 can be encoded, for the 256 bytes are always in the vocabulary; nothing is normalised, so decoding
gives back the very text. It knows no files and no chat: it returns a `tokenizers.Tokenizer`.
"""

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text.backend import backend_errors

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
SPECIAL_TOKENS = (BOS, EOS, PAD, *ROLES)

# GPT-4's pattern, but for numbers: one to three digits, which may carry the space before them.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_VOCAB_SIZE = 2**20  # the trainer reserves memory for all of it at once, and published ones stay under it


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    pattern: str | None = None,
) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens; the same texts give the same tokenizer, always.

    `special_tokens` get the ids from 0 up, the 256 bytes follow, then the merges. `pattern` is a regular expression
    (Oniguruma) whose matches are the pieces that no merge crosses; None stands for `SPLIT_PATTERN`. Raises `InputError`
    for a vocabulary too small or too large or a pattern that is no regular expression, `TokenizerError` for texts not
    UTF-8.
    """
    smallest = 256 + len(special_tokens)
    if vocab_size < smallest:
        raise InputError(f"vocab_size {vocab_size} is under {smallest}: 256 bytes and {len(special_tokens)} specials")
    if vocab_size > MAX_VOCAB_SIZE:
        raise InputError(f"vocab_size {vocab_size} is over {MAX_VOCAB_SIZE}, the most that a tokenizer is trained to")
    _check_special(special_tokens)
    with backend_errors("the split pattern is not a regular expression", InputError):
        split = pre_tokenizers.Split(Regex(SPLIT_PATTERN if pattern is None else pattern), behavior="isolated")
    tokenizer = _byte_level(models.BPE(), split)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special_tokens],
        initial_alphabet=byte_alphabet(),
        show_progress=False,
    )
    with backend_errors("the tokenizer could not be trained"):
        tokenizer.train_from_iterator(map(_check_text, texts), trainer)
    return tokenizer


def byte_tokenizer(special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    """A tokenizer without a vocabulary: id = byte of the UTF-8 text, the special tokens from 256 up."""
    _check_special(special_tokens)
    vocab = {character: byte for byte, character in enumerate(byte_alphabet())}
    tokenizer = _byte_level(models.BPE(vocab=vocab, merges=[]), None)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return tokenizer


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary, by byte (GPT-2's `bytes_to_unicode`)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printable)
    stand_ins = {byte: 256 + index for index, byte in enumerate(others)}
    return [chr(stand_ins.get(byte, byte)) for byte in range(256)]


def _byte_level(model: models.Model, split: pre_tokenizers.PreTokenizer | None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = level if split is None else pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _check_special(special_tokens: Sequence[str]) -> None:
    if len(set(special_tokens)) != len(special_tokens) or not all(special_tokens):
        raise InputError(f"special_tokens must be distinct and not empty, not {list(special_tokens)}")


def _check_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"a training text has a lone surrogate at character {error.start}: not UTF-8") from None
    except AttributeError:
        raise TokenizerError(f"a training text is {type(text).__name__}, not str") from None
    return text
