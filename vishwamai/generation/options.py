"""The arguments of the public API, by Hugging Face's names, checked and turned into `SamplingParams`."""

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
# What a call takes beside its prompts, and what holds where neither the call nor the model's folder says anything.
ARGUMENTS: Mapping[str, Any] = MappingProxyType(
    {
        "max_length": None,
        "max_new_tokens": None,
        "do_sample": False,
        "temperature": None,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "repetition_penalty": None,
        "num_beams": 1,
        "num_return_sequences": 1,
        "length_penalty": 1.0,
        "early_stopping": False,
        "stop": (),
        "seed": 0,
        "logprobs": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "sampling_params": None,
    }
)
# The arguments of sampling, each with the values that leave the model's distribution as it is, or take the likeliest.
NEUTRAL_VALUES = {"temperature": (0, 1), "top_k": (0, -1), "top_p": (1,), "min_p": (0,)}
# What other libraries call an argument, where the name alone does not say so.
OTHER_NAMES = {
    "max_tokens": "max_new_tokens",
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "stop_token_ids": "eos_token_id",
    "n": "num_return_sequences",
    "temp": "temperature",
}
ADDITIVE = ("presence_penalty", "frequency_penalty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """What a call asks for: the `params` of each prompt, and what they cannot hold.

    `max_length` bounds a row's tokens, its prompt included; `seed` is one, or one for each row that is drawn.
    """

    params: SamplingParams
    beams: BeamParams | None = None
    max_length: int | None = None
    seed: int | Sequence[int | None] | None = None
    pad_token_id: int | None = None

    @property
    def num_return_sequences(self) -> int:
        """The rows that are returned for each prompt."""
        return self.params.n if self.beams is None else self.beams.num_return

    def repeat(self, values: Sequence[Any]) -> list[Any]:
        """Returns what there is for each prompt as often as rows are returned for it."""
        return [value for value in values for _ in range(self.num_return_sequences)]

    def row_params(self, prompts: Sequence[Sequence[int]]) -> list[SamplingParams]:
        """Returns what each row that is drawn asks for: `params.n` of each prompt, one of each with beams."""
        n, seeds = self.params.n, self._seeds(len(prompts))
        lengths = {"max_length": self.max_length, "max_new_tokens": self.params.max_tokens}
        most = [count_new_tokens(len(prompt), **lengths) for prompt in prompts for _ in range(n)]
        pairs = zip(seeds, most, strict=True)
        return [dataclasses.replace(self.params, n=1, seed=seed, max_tokens=tokens) for seed, tokens in pairs]

    def _seeds(self, n_prompts: int) -> list[int | None]:
        n, seed = self.params.n, _to_python(self.seed)
        if seed is None:
            return [None] * (n * n_prompts)
        if isinstance(seed, int) and not isinstance(seed, bool):
            return [seed + j for _ in range(n_prompts) for j in range(n)]
        if not isinstance(seed, list | tuple):
            raise InputError(f"seed is {self.seed!r:.80}; it must be a whole number, a list of them, or None")
        if len(seed) != n * n_prompts:
            what = "row" if self.beams is None else "prompt"
            raise InputError(
                f"seed has {len(seed)} entries for {n * n_prompts} {what}s; give one seed, or one a {what}"
            )
        return list(seed)


def parse_options(
    given: Mapping[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    *,
    returns_logprobs: bool = False,
    template_variables: Collection[str] = (),
) -> GenerationOptions:
    """Returns what a call asks for that is `given` some of `ARGUMENTS`; None is as if it were left out, but for `seed`.

    An argument that is left out has its value in `defaults`, the model's generation_config.json, as in transformers, or
    else that of `ARGUMENTS`. `max_length` counts a row's tokens, its prompt included and padding not; `max_new_tokens`
    those beyond the prompt, and wins; neither given means 256 new ones. The model's context bounds both. The likeliest
    token is taken, or one is drawn: with `do_sample`, or where `temperature` (over 0), `top_k`, `top_p` or `min_p` is
    given. A row ends with a token of `eos_token_id` (by default the model's) or before a text of `stop`. Equal seeds
    give equal rows, alone or in a batch (None: other rows each time); give one seed, or one for each row that is
    returned. Beams of one prompt are drawn together, so with beams it is one for each prompt. `logprobs` asks for that
    many likeliest tokens at each step beside the chosen one. `sampling_params` says all of this at once.

    Raises `InputError` for an argument that there is not (`template_variables` are other names that the call takes),
    with the name that was likely meant, and for arguments that contradict each other.
    """
    for name in given:
        if name not in ARGUMENTS:
            if name in ADDITIVE:
                raise InputError(
                    f"there is no {name}, which adds; repetition_penalty multiplies, and 1 changes nothing"
                )
            also = ", and the chat template reads no such variable" if template_variables else ""
            hint = suggestion(OTHER_NAMES.get(name, name), [*ARGUMENTS, *template_variables])
            raise InputError(f"generation has no argument {name!r}{also}; {hint}")
    explicit = {name: value for name, value in given.items() if value is not None or name == "seed"}
    if "sampling_params" in explicit:
        options = _from_sampling_params(explicit)
    else:
        options = _from_arguments(explicit, defaults)
    if options.params.logprobs is not None and not returns_logprobs:
        raise InputError("logprobs would do nothing here: call generate with return_dict=True, or stream")
    return options


def _from_sampling_params(explicit: Mapping[str, Any]) -> GenerationOptions:
    params = explicit["sampling_params"]
    if not isinstance(params, SamplingParams):
        raise InputError(f"sampling_params is {params!r:.60}; it must be a SamplingParams")
    others = [name for name in explicit if name not in ("sampling_params", "pad_token_id")]
    if others:
        raise InputError(f"sampling_params says all of a request, and {_values(others, explicit)} too: leave one out")
    pad_id = check_whole("pad_token_id", explicit.get("pad_token_id"), 0, MAX_ID, optional=True)
    return GenerationOptions(params=params, seed=params.seed, pad_token_id=pad_id)


def _from_arguments(explicit: dict[str, Any], defaults: Mapping[str, Any]) -> GenerationOptions:
    inherited = {name: value for name, value in defaults.items() if name not in explicit}
    # Of the two lengths, what the call gives wins over the folder, and max_new_tokens over max_length.
    if "max_length" in explicit or "max_new_tokens" in explicit or "max_new_tokens" in inherited:
        inherited.pop("max_length", None)
    if "max_length" in explicit:
        inherited.pop("max_new_tokens", None)
    asked = {**ARGUMENTS, **inherited, **explicit, "do_sample": _is_sampling(explicit, defaults)}
    num_beams = check_whole("num_beams", asked["num_beams"], 1, MAX_BEAMS)
    n = check_whole("num_return_sequences", asked["num_return_sequences"], 1, MAX_ID)
    if n > (num_beams if num_beams > 1 or not asked["do_sample"] else MAX_ID):
        raise InputError(
            f"there is no num_return_sequences={n} of num_beams={num_beams}: "
            "give as many beams, or draw tokens with do_sample=True"
        )
    if num_beams == 1 and (
        explicit.get("length_penalty", 1) != 1 or explicit.get("early_stopping", False) is not False
    ):
        raise InputError("length_penalty and early_stopping are of beams, and num_beams is 1")
    beams = None
    if num_beams > 1:
        how = {name: asked[name] for name in ("length_penalty", "early_stopping")}
        beams = BeamParams(num_beams=num_beams, num_return=n, sample=asked["do_sample"], **how)
    names = ("repetition_penalty", *(NEUTRAL_VALUES if asked["do_sample"] else ()))
    sampling = {name: asked[name] for name in names if asked[name] is not None}
    if not asked["do_sample"] and beams is None:
        sampling["temperature"] = 0.0
    for name in ("max_length", "max_new_tokens"):
        check_whole(name, asked[name], 1, optional=True)
    neither = asked["max_length"] is None and asked["max_new_tokens"] is None
    params = SamplingParams(
        **sampling,
        **_end_ids(asked["eos_token_id"]),
        n=n if beams is None else 1,
        max_tokens=DEFAULT_NEW_TOKENS if neither else asked["max_new_tokens"],
        stop=asked["stop"],
        logprobs=asked["logprobs"],
    )
    return GenerationOptions(
        params=params,
        beams=beams,
        max_length=asked["max_length"],
        seed=asked["seed"],
        pad_token_id=check_whole("pad_token_id", asked["pad_token_id"], 0, MAX_ID, optional=True),
    )


def from_generation_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder's generation_config.json says, by the names of `ARGUMENTS`."""
    return {"stop" if name == "stop_strings" else name: value for name, value in settings.items()}


def _is_sampling(explicit: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether tokens are drawn: as `do_sample` says, else where an argument of sampling is given, else by `defaults`.

    Raises `InputError` where two of these contradict each other.
    """
    if type(explicit.get("do_sample", False)) is not bool:
        raise InputError(f"do_sample is {explicit['do_sample']!r}; it must be True or False")
    given = [name for name in NEUTRAL_VALUES if name in explicit]
    acting = [name for name in given if explicit[name] not in NEUTRAL_VALUES[name]]
    greedy = explicit.get("temperature") == 0
    if explicit.get("do_sample") is False and acting:
        raise InputError(
            f"do_sample=False takes the likeliest token, and {_values(acting, explicit)} draws: leave one out"
        )
    if greedy and acting:
        raise InputError(
            f"temperature=0 takes the likeliest token, and {_values(acting, explicit)} draws: leave one out"
        )
    if (
        explicit.get("do_sample")
        and "temperature" in {**defaults, **explicit}
        and {**defaults, **explicit}["temperature"] == 0
    ):
        whose = "" if greedy else " (of the model's generation_config.json)"
        raise InputError(f"do_sample=True draws, and temperature=0{whose} takes the likeliest token: change one")
    if "do_sample" in explicit:
        return explicit["do_sample"]
    if given:
        return not greedy
    return bool(defaults.get("do_sample")) and defaults.get("temperature") != 0


def _values(names: Sequence[str], explicit: Mapping[str, Any]) -> str:
    return " and ".join(f"{name}={explicit[name]!r}" for name in names)


def _to_python(value: Any) -> Any:
    """Numbers and arrays of NumPy and JAX as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _end_ids(eos_token_id: int | Sequence[int] | None) -> dict[str, Any]:
    """Returns the fields of `SamplingParams` for end tokens that stand in the place of the model's."""
    if eos_token_id is None:
        return {}
    ids = _to_python(eos_token_id)
    ids = ids if isinstance(ids, list | tuple) else [ids]
    for i in ids:
        check_whole("eos_token_id", i, 0, MAX_ID)
    return {"ignore_eos": True, "stop_token_ids": ids}
