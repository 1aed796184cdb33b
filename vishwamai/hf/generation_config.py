"""Reads a folder's generation_config.json, and what config.json says in its place or beside it.

The names are those of transformers' `GenerationConfig`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vishwamai.config import load_json
from vishwamai.errors import ConfigError

FLOAT_KINDS = (int, float)
SETTING_KINDS = {
    "do_sample": (bool,),
    "temperature": FLOAT_KINDS,
    "top_k": (int,),
    "top_p": FLOAT_KINDS,
    "min_p": FLOAT_KINDS,
    "repetition_penalty": FLOAT_KINDS,
    "max_length": (int,),
    "max_new_tokens": (int,),
    "num_beams": (int,),
    "num_return_sequences": (int,),
    "length_penalty": FLOAT_KINDS,
    "early_stopping": (bool, str),
    "stop_strings": (str, list),
}
# What changes the text in transformers and is not followed here, with the values that change nothing beside null.
UNSUPPORTED = {
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ([], {}),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "renormalize_logits": (False,),
    "token_healing": (False,),
    "watermarking_config": (),
    "max_time": (),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "diversity_penalty": (0,),
    "num_beam_groups": (1,),
    "constraints": ([],),
    "force_words_ids": ([],),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """The special tokens, and the defaults of `generate`.

    With `eos_ids` None the tokenizer has them. `unsupported` holds (name, value) of settings that are not followed, and
    `unused_eos_ids` the end tokens of config.json that generation_config.json leaves out.
    """

    eos_ids: tuple[int, ...] | None = None
    unused_eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    pad_id: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    stop_strings: tuple[str, ...] | None = None
    unsupported: tuple[tuple[str, Any], ...] = ()

    def settings(self) -> dict[str, Any]:
        """The settings other than the special tokens, by the names of the file."""
        return {name: value for name in SETTING_KINDS if (value := getattr(self, name)) is not None}

    def not_followed(self) -> str:
        """The settings that are not followed, in words."""
        asked = [f"{name}={value!r:.40}" for name, value in self.unsupported]
        if self.unused_eos_ids:
            found = f"{list(self.unused_eos_ids)!r:.40}"
            asked.append(f"eos_token_id={found} (of config.json, and generation_config.json has none)")
        return ", ".join(asked)

    def token_ids(self) -> dict[str, Any]:
        """The special tokens, by the names of both files; None where there is none."""
        ends = self.eos_ids or ()
        eos: Any = list(ends) if len(ends) > 1 else next(iter(ends), None)
        return {"eos_token_id": eos, "bos_token_id": self.bos_id, "pad_token_id": self.pad_id}

    def to_json(self) -> dict[str, Any]:
        """The object of generation_config.json; where nothing is to end a text, its `eos_token_id` is null."""
        null = {"eos_token_id"} if self.eos_ids == () else ()
        ids = {name: value for name, value in self.token_ids().items() if value is not None or name in null}
        return ids | self.settings() | dict(self.unsupported)


def read_generation_config(folder: Path, data: Mapping[str, Any]) -> GenerationConfig:
    """Returns the settings of a folder whose config.json holds `data`. Raises `ConfigError`."""
    path = folder / "generation_config.json"
    if path.exists():
        return parse_settings(data, str(path), load_json(path))
    return parse_settings(data, str(folder / "config.json"))


def parse_settings(data: Mapping[str, Any], where: str, own: Mapping[str, Any] | None = None) -> GenerationConfig:
    """Returns the settings in the object of a config.json, `data`, and that of a generation_config.json, `own`.

    As in transformers, settings in config.json, or in its text model, count only where there is no
    generation_config.json, except for a start and a padding token that the file leaves out. Raises `ConfigError` that
    names the file, `where`, and the key.
    """
    settings, text = data if own is None else own, data.get("text_config")
    files = (settings, data, text if isinstance(text, dict) else {})
    names = ("eos_token_id", "bos_token_id", "pad_token_id")
    eos, bos, pad = (_ids(_first(*(file.get(name) for file in files)), f"{where}: {name}") for name in names)
    elsewhere = own is not None and settings.get("eos_token_id") is None
    unused = eos if elsewhere and "eos_token_id" not in settings else ()
    has_eos = bool(eos) or (own is not None and "eos_token_id" in settings)
    acting = (name for name, neutral in UNSUPPORTED.items() if settings.get(name) not in (None, *neutral))
    return GenerationConfig(
        eos_ids=None if not has_eos else () if elsewhere else eos,
        unused_eos_ids=unused,
        bos_id=next(iter(bos), None),
        pad_id=next(iter(pad), None),
        **{name: _checked(settings.get(name), name, where) for name in SETTING_KINDS},
        unsupported=tuple((name, settings[name]) for name in acting),
    )


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _ids(value: Any, where: str) -> tuple[int, ...]:
    """Token ids; a negative one is how some files say "none"."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if len(values) > 1024 or not all(type(v) is int and v < 2**31 for v in values):
        raise ConfigError(f"{where}: must be a token id or a list of them, not {str(value)[:60]!r}")
    return tuple(v for v in values if v >= 0)


def _checked(value: Any, name: str, where: str) -> Any:
    """The value as its field has it."""
    if value is None:
        return None
    if type(value) not in SETTING_KINDS[name] or (
        name == "stop_strings" and not all(isinstance(text, str) for text in value)
    ):
        raise ConfigError(f"{where}: {name!r} is {str(value)[:60]!r}, which is no value for it")
    if name == "stop_strings":
        return (value,) if isinstance(value, str) else tuple(value)
    return float(value) if SETTING_KINDS[name] == FLOAT_KINDS else value
