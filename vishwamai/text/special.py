"""Makes a tokenizer have what its settings name: added tokens, special tokens, and what is put round a text.

It knows no files and encodes nothing.
"""

from tokenizers import AddedToken, Tokenizer, processors

from vishwamai.errors import TokenizerError
from vishwamai.text.settings import FLAGS, NAMED, Settings


def apply_settings(backend: Tokenizer, settings: Settings) -> Tokenizer:
    """The same backend, changed: tokens that it lacks are added, bos and eos put round texts where settings say so.

    Raises `TokenizerError` where an added token has another id in the vocabulary than in the settings.
    """
    _add_listed(backend, settings)
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = [token for token in named_tokens(settings) if token not in present]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    if settings.add_bos is not None or settings.add_eos is not None:
        backend.post_processor = _around(backend, settings)
    return backend


def named_tokens(settings: Settings) -> list[str]:
    """The tokens that the settings call by a name or list as special, each once."""
    named = [*(getattr(settings, name) for name in NAMED), *settings.special_tokens]
    return list(dict.fromkeys(token for token in named if token is not None))


def _add_listed(backend: Tokenizer, settings: Settings) -> None:
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = sorted((token for token in settings.added if token.content not in present), key=lambda token: token.id)
    for token in missing:
        backend.add_tokens([AddedToken(token.content, **{flag: getattr(token, flag) for flag in FLAGS})])
    for token in settings.added:
        if (index := backend.token_to_id(token.content)) != token.id:
            raise TokenizerError(
                f"tokenizer_config.json gives {token.content!r} the id {token.id}, but the vocabulary gives it {index}"
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
