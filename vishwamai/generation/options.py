"""The arguments of the public API, by Hugging Face's names, checked and turned into what each row asks for.

It knows neither prompts' text nor how a token is made.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from vishwamai.checks import check_whole
from vishwamai.errors import InputError, suggestion
from vishwamai.generation.beam import MAX_BEAMS, BeamParams
from vishwamai.generation.requests import count_new_tokens
from vishwamai.generation.sampling import MAX_ID, SamplingParams

DEFAULT_NEW_TOKENS = 256
# The sampling options, each with the values that leave the model's distribution as it is, or take the likeliest token.
SAMPLING = {"temperature": (0, 1), "top_k": (0, -1), "top_p": (1,), "min_p": (0,)}
# What other libraries call an argument, where the name alone does not say so.
OTHER_NAMES = {
    "max_tokens": "max_new_tokens",
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "stop_token_ids": "eos_token_id",
    "n": "num_return_sequences",
    "temp": "temperature",
    "presence_penalty": "repetition_penalty",
    "frequency_penalty": "repetition_penalty",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What `generate`, `complete`, `stream` and `generate_chat` take beside a prompt; None is as if it were left out.

    An option that is left out has its value in the model's generation_config.json, as in transformers, or else the
    default below.
    `max_length` counts a row's tokens, its prompt included and padding not; `max_new_tokens` those beyond the prompt,
    and wins; neither given means 256 new ones. The model's context bounds both. The likeliest token is taken, or one
    is drawn: with `do_sample`, or where `temperature` (over 0), `top_k`, `top_p` or `min_p` is given. A row ends with a
    token of `eos_token_id` (by default the model's) or before a text of `stop`. Equal seeds give equal rows, alone or
    in a batch (None: other rows each time); give one seed, or one for each row that is returned. Beams of one prompt
    are drawn together, so with beams it is one for each prompt. `logprobs` asks for that many likeliest tokens at each
    step beside the chosen one.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    stop: str | Sequence[str] = ()
    seed: int | Sequence[int | None] | None = 0
    logprobs: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self):
        check_whole("num_beams", self.num_beams, 1, MAX_BEAMS)
        check_whole("num_return_sequences", self.num_return_sequences, 1, MAX_ID)
        check_whole("pad_token_id", self.pad_token_id, 0, MAX_ID, optional=True)
        if type(self.do_sample) is not bool:
            raise InputError(f"do_sample is {self.do_sample!r}; it must be True or False")
        if self.num_return_sequences > (self.num_beams if self.num_beams > 1 or not self.do_sample else 10**9):
            raise InputError(
                f"there is no num_return_sequences={self.num_return_sequences} of num_beams={self.num_beams}: "
                "give as many beams, or draw tokens with do_sample=True"
            )


def options(
    given: Mapping[str, Any],
    folder: Mapping[str, Any] = MappingProxyType({}),
    *,
    reports: bool = False,
    others: Collection[str] = (),
) -> Options:
    """The options of a call. `folder` holds what the model's folder says, by the same names.

    `reports` says whether the call gives logprobs back, `others` are other names that are valid in it (variables of the
    chat template). Raises `InputError` for an option that there is not, with the name that was likely meant, and for
    options that contradict each other.
    """
    for name in given:
        if name not in NAMES:
            also = ", and the chat template reads no such variable" if others else ""
            hint = suggestion(OTHER_NAMES.get(name, name), [*NAMES, *others])
            raise InputError(f"generation has no argument {name!r}{also}; {hint}")
    if given.get("logprobs") is not None and not reports:
        raise InputError("logprobs would do nothing here: call generate with return_dict=True, or stream")
    said = {name: value for name, value in given.items() if value is not None or name == "seed"}
    unsaid = {name: value for name, value in folder.items() if name not in said}
    if "max_length" in said or "max_new_tokens" in said or "max_new_tokens" in unsaid:
        unsaid.pop("max_length", None)
    if "max_length" in said:
        unsaid.pop("max_new_tokens", None)
    merged = {**unsaid, **said, "do_sample": _is_sampling(said, folder)}
    if merged["do_sample"] is False:
        merged = {name: value for name, value in merged.items() if name not in SAMPLING}
    asked = Options(**merged)
    if asked.num_beams == 1 and (said.get("length_penalty", 1) != 1 or said.get("early_stopping", False) is not False):
        raise InputError("length_penalty and early_stopping are of beams, and num_beams is 1")
    return asked


NAMES = tuple(field.name for field in dataclasses.fields(Options))


def from_generation_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder's generation_config.json says, by the names of `Options`."""
    return {OTHER_NAMES.get(name, name): value for name, value in settings.items()}


def _is_sampling(said: Mapping[str, Any], folder: Mapping[str, Any]) -> bool:
    """Whether tokens are drawn: as `do_sample` says, else where a setting of drawing is given, else as the folder says.

    Raises `InputError` where two of these contradict each other.
    """
    given = [name for name in SAMPLING if name in said]
    acting = [name for name in given if said[name] not in SAMPLING[name]]
    greedy = said.get("temperature") == 0
    if said.get("do_sample") is False and acting:
        raise InputError(f"do_sample=False takes the likeliest token, and {_values(acting, said)} draws: leave one out")
    if greedy and acting:
        raise InputError(f"temperature=0 takes the likeliest token, and {_values(acting, said)} draws: leave one out")
    if said.get("do_sample") and "temperature" in {**folder, **said} and {**folder, **said}["temperature"] == 0:
        whose = "" if greedy else " (of the model's generation_config.json)"
        raise InputError(f"do_sample=True draws, and temperature=0{whose} takes the likeliest token: change one")
    if "do_sample" in said:
        return said["do_sample"]
    if given:
        return not greedy
    return bool(folder.get("do_sample")) and folder.get("temperature") != 0


def _values(names: Sequence[str], said: Mapping[str, Any]) -> str:
    return " and ".join(f"{name}={said[name]!r}" for name in names)


def params(rows: Sequence[Sequence[int]], asked: Options) -> list[SamplingParams]:
    """What each row that is returned asks for, or with beams each prompt."""
    n = 1 if asked.num_beams > 1 else asked.num_return_sequences
    seeds = _seeds(asked, len(rows), n)
    lengths = {"max_length": asked.max_length, "max_new_tokens": asked.max_new_tokens}
    room = [count_new_tokens(len(row), **lengths, default=DEFAULT_NEW_TOKENS) for row in rows for _ in range(n)]
    common = _sampling(asked) | _ends(asked.eos_token_id)
    common |= {"stop": asked.stop, "logprobs": asked.logprobs}
    return [SamplingParams(**common, max_tokens=most, seed=seed) for most, seed in zip(room, seeds, strict=True)]


def beams(asked: Options) -> BeamParams:
    """How the beams of a call are kept."""
    return BeamParams(
        num_beams=asked.num_beams,
        num_return=asked.num_return_sequences,
        length_penalty=asked.length_penalty,
        early_stopping=asked.early_stopping,
        sample=asked.do_sample,
    )


def _seeds(asked: Options, n_rows: int, n: int) -> list[int | None]:
    """The seed of each of `n` draws of each row."""
    seed: Any = _plain(asked.seed)
    if seed is None:
        return [None] * (n * n_rows)
    if isinstance(seed, int) and not isinstance(seed, bool):
        return [seed + i for _ in range(n_rows) for i in range(n)]
    if not isinstance(seed, list | tuple):
        raise InputError(f"seed is {asked.seed!r:.80}; it must be a whole number, a list of them, or None")
    if len(seed) != n * n_rows:
        what = "prompt" if asked.num_beams > 1 else "row"
        raise InputError(f"seed has {len(seed)} entries for {n * n_rows} {what}s; give one seed, or one a {what}")
    return list(seed)


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy and JAX as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _sampling(asked: Options) -> dict[str, Any]:
    given = {name: getattr(asked, name) for name in (*SAMPLING, "repetition_penalty")}
    if not asked.do_sample and asked.num_beams == 1:
        given["temperature"] = 0.0
    return {name: value for name, value in given.items() if value is not None}


def _ends(eos_token_id: int | Sequence[int] | None) -> dict[str, Any]:
    """The end tokens asked for in place of the model's."""
    if eos_token_id is None:
        return {}
    ids = _plain(eos_token_id)
    ids = ids if isinstance(ids, list | tuple) else [ids]
    for i in ids:
        check_whole("eos_token_id", i, 0, MAX_ID)
    return {"ignore_eos": True, "stop_token_ids": ids}
