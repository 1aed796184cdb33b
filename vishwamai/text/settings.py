"""What a tokenizer's folder says besides `tokenizer.json`: which tokens are special, what is added, chat templates.

Reads and writes `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, `chat_template.jinja` and
`additional_chat_templates/*.jinja`, the layout of Hugging Face's tokenizers; where two of them speak of one thing, the
one counts that counts in transformers 5. It does not know how text is encoded, and it never renders a template.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vishwamai.config import load_json
from vishwamai.errors import ConfigError, TokenizerError
from vishwamai.files import write_atomic
from vishwamai.text.backend import read_bounded

# What an earlier tokenizer may have left in a folder, and would be read beside another's files.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
MAX_CONFIG_BYTES = 16_000_000
MAX_TEMPLATE_BYTES = 256_000
TEMPLATE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# In the order in which those that the vocabulary lacks get their ids.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA, OLDER_EXTRA = "extra_special_tokens", "additional_special_tokens"
FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


@dataclass(frozen=True)
class DeclaredToken:
    """A token that stands beside the model's vocabulary and is found in text before all else.

    `id` None: whichever is free. Where `tokenizer.json` has the token too, its flags there give way if `overrides`.
    """

    content: str
    id: int | None
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False
    special: bool = False
    overrides: bool = True


@dataclass(frozen=True)
class Settings:
    """A tokenizer's settings; None where the folder does not say.

    `model_tokens` holds (name, token) of tokens that a model calls by names of its own ("image_token"), and
    `special_tokens` those without a name. `add_bos`/`add_eos` override what `tokenizer.json` adds to a text;
    `without_padding` says that there is no padding token, whatever `tokenizer.json` pads with; `token_type_ids` says
    whether batches have them; `templates` holds (name, Jinja source), the one in use named "default".
    """

    bos_token: str | None = None
    eos_token: str | None = None
    unk_token: str | None = None
    sep_token: str | None = None
    pad_token: str | None = None
    cls_token: str | None = None
    mask_token: str | None = None
    model_tokens: tuple[tuple[str, str], ...] = ()
    special_tokens: tuple[str, ...] = ()
    add_bos: bool | None = None
    add_eos: bool | None = None
    max_length: int | None = None
    padding_side: str | None = None
    without_padding: bool = False
    token_type_ids: bool = False
    added: tuple[DeclaredToken, ...] = ()
    templates: tuple[tuple[str, str], ...] = ()


def read_settings(folder: Path) -> Settings:
    """The settings in a folder; all of its files are optional. Raises `TokenizerError` for a damaged one.

    As in transformers 5, an `added_tokens_decoder` in `tokenizer_config.json` makes the older files mean nothing;
    without one, `special_tokens_map.json` wins over it, and `added_tokens.json` adds tokens.
    """
    where = folder / "tokenizer_config.json"
    config = _optional_json(where)
    if _read_typed(config, "split_special_tokens", bool, where):
        raise TokenizerError(
            f"{where}: split_special_tokens is true, and here a special token's text is read as the token; "
            "take the key out, and give encode allow_special=False for texts that are not to be read so"
        )
    older = "added_tokens_decoder" not in config
    tokens = _merge(config, _optional_json(folder / "special_tokens_map.json") if older else {})
    named = {name: _content(tokens.get(name), name, where) for name in NAMED}
    own, extra = _model_tokens(tokens, where), _read_extra(tokens, where)
    special = {*named.values(), *(token for _, token in own), *extra}
    length = _read_typed(config, "model_max_length", (int, float), where)
    return Settings(
        **named,
        model_tokens=own,
        special_tokens=extra,
        add_bos=_read_typed(config, "add_bos_token", bool, where),
        add_eos=_read_typed(config, "add_eos_token", bool, where),
        max_length=int(length) if length is not None and 0 < length < 1 << 40 else None,
        padding_side=_side(config, where),
        without_padding="pad_token" in tokens and named["pad_token"] is None,
        token_type_ids="token_type_ids" in (_read_typed(config, "model_input_names", list, where) or ()),
        added=(_from_added_tokens(folder, special) if older else _read_added(config, where))
        + _read_flagged(tokens, where),
        templates=tuple(sorted(_templates(folder, config, where).items())),
    )


def with_padding(settings: Settings, padding: Mapping[str, Any] | None) -> Settings:
    """The settings, where they say nothing of a padding token with that of a `tokenizer.json`'s own padding."""
    if padding is None:
        return settings
    own = None if settings.without_padding else padding["pad_token"]
    pad, side = settings.pad_token or own, settings.padding_side or padding["direction"]
    return replace(settings, pad_token=pad, padding_side=side)


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings so that `read_settings` and `transformers.AutoTokenizer` read them back."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config.update({name: getattr(settings, name) for name in NAMED if getattr(settings, name) is not None})
    config.update(settings.model_tokens)
    if settings.special_tokens:
        config["additional_special_tokens"] = list(settings.special_tokens)
    if settings.max_length is not None:
        config["model_max_length"] = settings.max_length
    if settings.padding_side is not None:
        config["padding_side"] = settings.padding_side
    if settings.token_type_ids:
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for name, template in settings.templates:
        _write(_template_path(folder, name), template)


def _template_path(folder: Path, name: str) -> Path:
    if name == "default":
        return folder / "chat_template.jinja"
    return folder / "additional_chat_templates" / f"{name}.jinja"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, [text.encode()])  # bytes: a template's line ends are part of the prompt


def _optional_json(path: Path) -> dict[str, Any]:
    try:
        return load_json(path, max_bytes=MAX_CONFIG_BYTES) if path.exists() else {}
    except ConfigError as error:
        raise TokenizerError(str(error)) from None


def _read_typed(config: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: Path) -> Any:
    value = config.get(key)
    if value is not None and not isinstance(value, kind):
        raise TokenizerError(f"{where}: {key} is {value!r:.80}, of the wrong type")
    return value


def _content(value: Any, name: str, where: Path) -> str | None:
    """A token is written as its text or as an object with the text in `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and (not isinstance(text, str) or not text):
        raise TokenizerError(f"{where}: {name} is {value!r:.80}, which is no token")
    return text


def _side(config: Mapping[str, Any], where: Path) -> str | None:
    side = config.get("padding_side")
    if side not in (None, "left", "right"):
        raise TokenizerError(f"{where}: padding_side is {side!r:.80}; it is left or right")
    return side


def _merge(config: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, Any]:
    """What two files say of special tokens, `older` being special_tokens_map.json, put together as transformers does.

    The tokens without a name stand in `extra_special_tokens` afterwards, those that a model names in `named`.
    """
    tokens = dict(config)
    if not tokens.get(EXTRA) and OLDER_EXTRA in tokens:
        tokens[EXTRA] = tokens.pop(OLDER_EXTRA)
    named = {name: tokens.pop(name) for name, value in config.items() if _is_own(name) and isinstance(value, str)}
    if isinstance(tokens.get(EXTRA), dict):
        named |= tokens.pop(EXTRA)
    lists = [*_read_list(tokens, EXTRA), *_read_list(older, EXTRA)]
    tokens |= older
    if isinstance(older.get(EXTRA), list):
        tokens[EXTRA] = lists
    elif isinstance(older.get(EXTRA), dict):
        named |= tokens.pop(EXTRA)
    if EXTRA not in tokens:
        tokens[EXTRA] = tokens.get(OLDER_EXTRA)
    return tokens | {"named": {name: value for name, value in tokens.items() if _is_own(name)} | named}


def _is_own(name: str) -> bool:
    return name.endswith("_token") and name not in NAMED


def _model_tokens(tokens: Mapping[str, Any], where: Path) -> tuple[tuple[str, str], ...]:
    """The tokens that a model calls by names of its own, in either of the two ways to write them."""
    own = [(name, value) for name, value in tokens["named"].items() if isinstance(value, str | dict)]
    texts = [(name, _content(value, name, where)) for name, value in own]
    return tuple((name, text) for name, text in texts if text is not None)


def _read_extra(tokens: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    """The special tokens without a name."""
    texts = [_content(value, "a special token", where) for value in _read_list(tokens, EXTRA)]
    return tuple(dict.fromkeys(text for text in texts if text is not None))


def _read_list(tokens: Mapping[str, Any], key: str) -> list[Any]:
    values = tokens.get(key)
    return values if isinstance(values, list) else []


def _read_flagged(tokens: Mapping[str, Any], where: Path) -> tuple[DeclaredToken, ...]:
    """The special tokens that are written as objects, for their flags, which count where the vocabulary lacks them."""
    values = [*(tokens.get(name) for name in NAMED), *_read_list(tokens, EXTRA)]
    objects = [value for value in values if isinstance(value, dict) and value.get("content")]
    return tuple(_read_added_token(None, {**value, "special": True}, where, overrides=False) for value in objects)


def _from_added_tokens(folder: Path, special: Collection[str | None]) -> tuple[DeclaredToken, ...]:
    """The tokens of `added_tokens.json`, {text: id}."""
    where = folder / "added_tokens.json"
    table = _optional_json(where)
    if not all(token and type(index) is int and index >= 0 for token, index in table.items()):
        raise TokenizerError(f"{where}: is not a table of token -> id")
    return tuple(
        DeclaredToken(token, index, normalized=token not in special, special=token in special, overrides=False)
        for token, index in table.items()
    )


def _read_added(config: Mapping[str, Any], where: Path) -> tuple[DeclaredToken, ...]:
    table = _read_typed(config, "added_tokens_decoder", dict, where) or {}
    try:
        return tuple(_read_added_token(int(key), value, where) for key, value in table.items())
    except TokenizerError:
        raise
    except (ValueError, AttributeError):
        raise TokenizerError(f"{where}: added_tokens_decoder is not a table of id -> token") from None


def _read_added_token(index: int | None, value: Any, where: Path, *, overrides: bool = True) -> DeclaredToken:
    text = _content(value.get("content"), f"added token {index}", where)
    if text is None:
        raise TokenizerError(f"{where}: added token {index} has no content")
    return DeclaredToken(text, index, **{flag: bool(value.get(flag, False)) for flag in FLAGS}, overrides=overrides)


def _templates(folder: Path, config: Mapping[str, Any], where: Path) -> dict[str, str]:
    """Those of the files; where there is none, the configuration's."""
    listed = config.get("chat_template") or {}
    if isinstance(listed, str):
        listed = {"default": listed}
    elif isinstance(listed, list):
        try:
            listed = {entry["name"]: entry["template"] for entry in listed}
        except (TypeError, KeyError):
            raise TokenizerError(f"{where}: chat_template is not a list of name and template") from None
    templates, main = {}, folder / "chat_template.jinja"
    if main.exists():
        templates["default"] = _read_template(main)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = _read_template(path)
    templates = templates or dict(listed)
    if not all(isinstance(text, str) for pair in templates.items() for text in pair):
        raise TokenizerError(f"{where}: chat_template holds something that is not text")
    if wrong := [name for name in templates if not TEMPLATE_NAME.fullmatch(name)]:
        raise TokenizerError(f"{where}: chat_template has the name {wrong[0]!r:.80}; a name is letters, digits, _ . -")
    return templates


def _read_template(path: Path) -> str:
    raw = read_bounded(path, MAX_TEMPLATE_BYTES)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: is not UTF-8 (byte {error.start})") from None
