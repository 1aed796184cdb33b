"""Makes a tokenizer have what its settings name: added tokens, special tokens, and what is put round a text.

It knows no files and encodes nothing.
"""

from tokenizers import AddedToken, Tokenizer, processors

from vishwamai.errors import TokenizerError
from vishwamai.text.settings import FLAGS, NAMED, DeclaredToken, Settings


def apply_settings(backend: Tokenizer, settings: Settings) -> Tokenizer:
    """The same backend, changed: tokens that it lacks are added, bos and eos put round texts where settings say so.

    What the settings call by a name is special from then on, whatever the backend's own list says. Raises
    `TokenizerError` where an added token has another id in the vocabulary than in the settings.
    """
    _add_listed(backend, settings)
    present, flags = _added_by_content(backend), {token.content: token for token in settings.added}
    # A token that is only listed as special, and that the backend has as plain text, stays so, as in transformers.
    lacking = [token for token in declared_tokens(settings) if token not in present]
    plain = [token for token in named_tokens(settings) if token in present and not present[token].special]
    known = [present.get(token) or flags.get(token) or DeclaredToken(token, None) for token in [*lacking, *plain]]
    backend.add_special_tokens([_added_token(token, special=True) for token in known])
    if settings.add_bos is not None or settings.add_eos is not None:
        backend.post_processor = _around(backend, settings)
    return backend


def named_tokens(settings: Settings) -> list[str]:
    """The tokens that the settings call by a name, each once."""
    named = [getattr(settings, name) for name in NAMED] + [token for _, token in settings.model_tokens]
    return list(dict.fromkeys(token for token in named if token is not None))


def declared_tokens(settings: Settings) -> list[str]:
    """The tokens that the settings call by a name or list as special, each once."""
    return list(dict.fromkeys([*named_tokens(settings), *settings.special_tokens]))


def _added_by_content(backend: Tokenizer) -> dict[str, AddedToken]:
    return {token.content: token for token in backend.get_added_tokens_decoder().values()}


def _added_token(token: DeclaredToken | AddedToken, *, special: bool | None = None) -> AddedToken:
    flags = {flag: getattr(token, flag) for flag in FLAGS}
    return AddedToken(token.content, **flags if special is None else flags | {"special": special})


def _add_listed(backend: Tokenizer, settings: Settings) -> None:
    """Adds the tokens that have an id in the settings, and gives those present their flags; `special` is never lost."""
    present = _added_by_content(backend)
    listed = sorted((token for token in settings.added if token.id is not None), key=lambda token: token.id or 0)
    known = [(token, present.get(token.content)) for token in listed]
    new = [(token, old) for token, old in known if old is None or token.overrides]
    backend.add_tokens([_added_token(token, special=token.special or bool(old and old.special)) for token, old in new])
    for token in listed:
        if (index := backend.token_to_id(token.content)) != token.id:
            file = "tokenizer_config.json" if token.overrides else "added_tokens.json"
            raise TokenizerError(
                f"{file} gives {token.content!r} the id {token.id}, but the vocabulary gives it {index}"
            )


def _around(backend: Tokenizer, settings: Settings) -> processors.PostProcessor:
    before = [settings.bos_token] if settings.add_bos and settings.bos_token else []
    after = [settings.eos_token] if settings.add_eos and settings.eos_token else []
    second = [f"{token}:1" for token in before], [f"{token}:1" for token in after]
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *second[0], "$B:1", *second[1]],
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys([*before, *after])],
    )
