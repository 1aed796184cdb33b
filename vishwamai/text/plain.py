"""Text that must stay text: encodes so that no control token comes out of characters that nobody vouches for.

The check is on the ids and not on the text, so it holds whatever the tokenizer normalises, merges or overlaps: each
control id in the result must stand for vouched-for characters alone; one that does not is cut apart at a character in
its middle and the two parts are encoded anew. It knows no templates and no messages.
"""

from collections.abc import Collection, Sequence

from tokenizers import Encoding, Tokenizer

from vishwamai.errors import TokenizerError
from vishwamai.text.backend import backend_errors


def control_ids(backend: Tokenizer, allowed: Collection[str] = ()) -> frozenset[int]:
    """The ids of the special tokens but for those `allowed`."""
    added = backend.get_added_tokens_decoder().items()
    return frozenset(index for index, token in added if token.special and token.content not in allowed)


def encode_plain(
    backend: Tokenizer, text: str, controls: frozenset[int], vouched: Sequence[bool] | None = None
) -> list[int]:
    """Ids of a text, nothing put round it, with `controls` only where all their characters are `vouched` for.

    `vouched` has one flag per character; None stands for none. Without such a token in the way the ids are those that
    the tokenizer gives the whole text. Raises `TokenizerError` where a control token of one character stands in it.
    """
    cuts: set[int] = set()
    while True:
        ids, spans = _encode_cut(backend, text, sorted(cuts), controls)
        forged = [(start, end) for start, end in spans if vouched is None or not all(vouched[start:end])]
        if not forged:
            return ids
        for start, end in forged:
            if end - start < 2 or start + 1 in cuts:
                raise TokenizerError(f"{text[start:end]!r} is a control token and cannot be written as plain text")
            cuts.add(start + 1)


def _encode_cut(
    backend: Tokenizer, text: str, cuts: list[int], controls: frozenset[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of the text encoded in the parts between cuts, and the characters that each control id stands for."""
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    starts = [0, *cuts]
    sentinel = _sentinel(backend) if cuts else ""
    with backend_errors("the text could not be encoded"):
        for start, end in zip(starts, [*cuts, len(text)], strict=True):
            lead = sentinel if start else ""
            part = backend.encode(lead + text[start:end], add_special_tokens=False)
            first = 1 if lead else 0
            ids += part.ids[first:]
            spans += _control_spans(part, first, start - len(lead), controls)
    return ids, spans


def _control_spans(part: Encoding, first: int, shift: int, controls: frozenset[int]) -> list[tuple[int, int]]:
    found = (index for index in range(first, len(part.ids)) if part.ids[index] in controls)
    return [(part.offsets[index][0] + shift, part.offsets[index][1] + shift) for index in found]


def _sentinel(backend: Tokenizer) -> str:
    """A token put before a part that does not begin the text, lest the tokenizer treat it as a beginning."""
    added = backend.get_added_tokens_decoder()
    for index, token in added.items():
        if not token.rstrip and backend.encode(token.content + "|", add_special_tokens=False).ids[0] == index:
            return token.content
    return ""
