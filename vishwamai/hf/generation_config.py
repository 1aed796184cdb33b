"""What a folder says of generating: generation_config.json, and what config.json says in its place or beside it.

The names are those of transformers' `GenerationConfig`. It knows nothing of how a token is made.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vishwamai.config import load_json
from vishwamai.errors import ConfigError

NUMBER = (int, float)
KINDS = {
    "do_sample": (bool,),
    "temperature": NUMBER,
    "top_k": (int,),
    "top_p": NUMBER,
    "min_p": NUMBER,
    "repetition_penalty": NUMBER,
    "max_length": (int,),
    "max_new_tokens": (int,),
    "num_beams": (int,),
    "num_return_sequences": (int,),
    "length_penalty": NUMBER,
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
    """Where a text ends, and what a call of `generate` does where it does not say.

    `eos_ids` None: nobody says, and the tokenizer knows. `unsupported` holds (name, value) of what the folder asks for
    and is not followed, and `unused_eos_ids` the end tokens of config.json that its generation_config.json leaves out.
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
        """What is said of generating but for the special tokens, by the names of the file."""
        return {name: value for name in KINDS if (value := getattr(self, name)) is not None}

    def not_followed(self) -> str:
        """What the folder asks for and is not followed, in words."""
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
        said_none = {"eos_token_id"} if self.eos_ids == () else ()
        ids = {name: value for name, value in self.token_ids().items() if value is not None or name in said_none}
        return ids | self.settings() | dict(self.unsupported)


def read(folder: Path, data: Mapping[str, Any]) -> GenerationConfig:
    """What a folder says, whose config.json holds `data`.

    What config.json, or the text model in it, says of generating counts only where there is no generation_config.json,
    as in transformers; but for a start and a padding token that the file leaves out. Raises `ConfigError` that names
    the file and the key.
    """
    path = folder / "generation_config.json"
    said = load_json(path) if path.exists() else data
    where = f"{path if path.exists() else folder / 'config.json'}"
    text = data.get("text_config")
    files = (said, data, text if isinstance(text, dict) else {})
    names = ("eos_token_id", "bos_token_id", "pad_token_id")
    eos, bos, pad = (_ids(_first(*(file.get(name) for file in files)), f"{where}: {name}") for name in names)
    elsewhere = path.exists() and said.get("eos_token_id") is None
    unused = eos if elsewhere and "eos_token_id" not in said else ()
    is_said = bool(eos) or (path.exists() and "eos_token_id" in said)
    unsupported = tuple((name, said[name]) for name, neutral in UNSUPPORTED.items() if _acts(said.get(name), neutral))
    return GenerationConfig(
        eos_ids=None if not is_said else () if elsewhere else eos,
        unused_eos_ids=unused,
        bos_id=next(iter(bos), None),
        pad_id=next(iter(pad), None),
        **{name: _checked(said.get(name), name, where) for name in KINDS},
        unsupported=unsupported,
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
    if type(value) not in KINDS[name] or (name == "stop_strings" and not all(isinstance(text, str) for text in value)):
        raise ConfigError(f"{where}: {name!r} is {str(value)[:60]!r}, which is no value for it")
    if name == "stop_strings":
        return (value,) if isinstance(value, str) else tuple(value)
    return float(value) if KINDS[name] == NUMBER else value


def _acts(value: Any, neutral: tuple) -> bool:
    return value is not None and value not in neutral
