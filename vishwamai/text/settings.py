"""What a tokenizer's folder says besides `tokenizer.json`: which tokens are special, what is added, chat templates.

Reads and writes `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja` and
`additional_chat_templates/*.jinja`, the layout of Hugging Face's tokenizers. It does not know how text is encoded, and
it never renders a template.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vishwamai.config import load_json
from vishwamai.errors import ConfigError, TokenizerError
from vishwamai.text.backend import read_bounded

MAX_CONFIG_BYTES = 16_000_000
MAX_TEMPLATE_BYTES = 256_000
TEMPLATE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


@dataclass(frozen=True)
class Added:
    """A token that stands beside the model's vocabulary and is found in text before all else."""

    content: str
    id: int
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False
    special: bool = False


@dataclass(frozen=True)
class Settings:
    """A tokenizer's settings; None where the folder does not say.

    `add_bos`/`add_eos` override what `tokenizer.json` adds to a text; `templates` holds (name, Jinja source), the one
    in use named "default".
    """

    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    special_tokens: tuple[str, ...] = ()
    add_bos: bool | None = None
    add_eos: bool | None = None
    max_length: int | None = None
    added: tuple[Added, ...] = ()
    templates: tuple[tuple[str, str], ...] = ()


def read_settings(folder: Path) -> Settings:
    """The settings in a folder; all of its files are optional. Raises `TokenizerError` for a damaged one."""
    config = _optional_json(folder / "tokenizer_config.json")
    tokens = {**_optional_json(folder / "special_tokens_map.json"), **config}
    where = folder / "tokenizer_config.json"
    length = _typed(config, "model_max_length", (int, float), where)
    return Settings(
        **{name: _content(tokens.get(name), name, where) for name in NAMED},
        special_tokens=_extra(tokens, where),
        add_bos=_typed(config, "add_bos_token", bool, where),
        add_eos=_typed(config, "add_eos_token", bool, where),
        max_length=int(length) if length is not None and 0 < length < 1 << 40 else None,
        added=_added(config, where),
        templates=tuple(sorted(_templates(folder, config, where).items())),
    )


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings so that `read_settings` and `transformers.AutoTokenizer` read them back."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config.update({name: getattr(settings, name) for name in NAMED if getattr(settings, name) is not None})
    if settings.special_tokens:
        config["additional_special_tokens"] = list(settings.special_tokens)
    if settings.max_length is not None:
        config["model_max_length"] = settings.max_length
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for name, template in settings.templates:
        _write(_template_path(folder, name), template)


def _template_path(folder: Path, name: str) -> Path:
    if name == "default":
        return folder / "chat_template.jinja"
    return folder / "additional_chat_templates" / f"{name}.jinja"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # newline="": a template's line ends are part of the prompt.
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def _optional_json(path: Path) -> dict[str, Any]:
    try:
        return load_json(path, max_bytes=MAX_CONFIG_BYTES) if path.exists() else {}
    except ConfigError as error:
        raise TokenizerError(str(error)) from None


def _typed(config: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: Path) -> Any:
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


def _extra(tokens: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    listed = tokens.get("additional_special_tokens") or tokens.get("extra_special_tokens") or []
    values = listed.values() if isinstance(listed, dict) else listed
    texts = [_content(value, "additional_special_tokens", where) for value in values]
    return tuple(text for text in texts if text is not None)


def _added(config: Mapping[str, Any], where: Path) -> tuple[Added, ...]:
    table = _typed(config, "added_tokens_decoder", dict, where) or {}
    try:
        return tuple(_one_added(int(key), value, where) for key, value in table.items())
    except TokenizerError:
        raise
    except (ValueError, AttributeError):
        raise TokenizerError(f"{where}: added_tokens_decoder is not a table of id -> token") from None


def _one_added(index: int, value: Any, where: Path) -> Added:
    text = _content(value.get("content"), f"added token {index}", where)
    if text is None:
        raise TokenizerError(f"{where}: added token {index} has no content")
    return Added(text, index, **{flag: bool(value.get(flag, False)) for flag in FLAGS})


def _templates(folder: Path, config: Mapping[str, Any], where: Path) -> dict[str, str]:
    """By rising precedence: the configuration's templates, the named files, `chat_template.jinja`."""
    listed = config.get("chat_template") or {}
    if isinstance(listed, str):
        listed = {"default": listed}
    elif isinstance(listed, list):
        try:
            listed = {entry["name"]: entry["template"] for entry in listed}
        except (TypeError, KeyError):
            raise TokenizerError(f"{where}: chat_template is not a list of name and template") from None
    templates = dict(listed)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[path.stem] = _read_template(path)
    if (folder / "chat_template.jinja").exists():
        templates["default"] = _read_template(folder / "chat_template.jinja")
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
