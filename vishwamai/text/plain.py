"""Text that must stay text: encodes so that no control token comes out of characters that nobody vouches for.

The check is on the ids and not on the text, so it holds whatever the tokenizer normalises, merges or overlaps: each
control id in the result must stand for characters trusted enough; one that does not is cut apart in its middle and
the two parts are encoded anew. It knows no templates and no messages.
"""

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from vishwamai.errors import TokenizerError
from vishwamai.text.backend import backend_errors

Span = tuple[int, int]


def encode_plain(
    backend: Tokenizer, text: str, needed: Mapping[int, int], trust: Sequence[int] | None = None
) -> list[int]:
    """The ids that `encode_spans` gives."""
    return encode_spans(backend, text, needed, trust)[0]


def encode_spans(
    backend: Tokenizer, text: str, needed: Mapping[int, int], trust: Sequence[int] | None = None
) -> tuple[list[int], list[Span]]:
    """(ids, the characters of each) of a text; the id `i` occurs only where they all have trust `needed[i]` or more.

    Nothing is put round the text. `trust` has a number per character; None stands for 0 throughout. Where no such id is
    in the way the ids are those of the text as it is. Raises `TokenizerError` for a control token of one character,
    which cannot be cut.
    """
    cuts: set[int] = set()
    while True:
        ids, spans = _encode_parts(backend, text, sorted(cuts))
        found = ((span, needed[i]) for i, span in zip(ids, spans, strict=True) if i in needed)
        forged = [span for span, need in found if trust is None or min(trust[slice(*span)], default=0) < need]
        if not forged:
            return ids, spans
        for start, end in forged:
            if end - start < 2:
                raise TokenizerError(f"{text[start:end]!r} is a control token and cannot be written as plain text")
            cuts.add((start + end) // 2)


def _encode_parts(backend: Tokenizer, text: str, cuts: list[int]) -> tuple[list[int], list[Span]]:
    """(ids, the characters of each) of the text, encoded in the parts between cuts."""
    ids: list[int] = []
    spans: list[Span] = []
    sentinel = _sentinel(backend) if cuts else ""
    with backend_errors("the text could not be encoded"):
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            lead = sentinel if start else ""
            part = backend.encode(lead + text[start:stop], add_special_tokens=False)
            if lead and part.offsets[0] != (0, len(lead)):  # The sentinel and the text make another token together.
                lead, part = "", backend.encode(text[start:stop], add_special_tokens=False)
            first = 1 if lead else 0
            shift = start - len(lead)
            ids += part.ids[first:]
            spans += [(begin + shift, end + shift) for begin, end in part.offsets[first:]]
    return ids, spans


def _sentinel(backend: Tokenizer) -> str:
    """A token put before a part that does not begin the text, lest the tokenizer treat it as a beginning."""
    for index, token in sorted(backend.get_added_tokens_decoder().items()):
        if not token.rstrip and backend.encode(token.content + "|", add_special_tokens=False).ids[0] == index:
            return token.content
    return ""
