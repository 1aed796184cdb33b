"""Reads and writes PEFT's adapter_config.json. It knows no tensors and no model.

What would change the result and is not computed here is refused by name, and so is what is not known. The tensors say
which modules and layers an adapter has.
"""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from vishwamai import hub
from vishwamai.config import load_json
from vishwamai.errors import ConfigError, HubError
from vishwamai.hf.attributes import LIST, OBJECT, REQUIRED, Attribute, check_attributes, flag, number, only, size
from vishwamai.hf.safetensors import write_bytes

FILE, TENSORS = hub.WANTED["adapter"]
MAX_RANK = 4096
NONE = only(None, False, [], {})
LORA_ATTRIBUTES = {
    "peft_type": Attribute((), REQUIRED, choices=("LORA",)),
    "r": size(8, MAX_RANK),
    "lora_alpha": number(8),
    "rank_pattern": OBJECT,
    "alpha_pattern": OBJECT,
    "use_rslora": flag(False),
    "ensure_weight_tying": flag(False),
    "modules_to_save": LIST,
    "bias": only("none"),
    "use_dora": only(False),
    "use_qalora": only(False),
    "init_lora_weights": only(True, False, None, "gaussian", "eva", "orthogonal"),  # others change the base's weights
    **dict.fromkeys(
        """
        alora_invocation_tokens arrow_config corda_config kasa_config layer_replication loftq_config lora_bias
        lora_ga_config megatron_config monteclora_config target_parameters trainable_token_indices
        use_bdlora velora_config
        """.split(),
        NONE,
    ),
}
LORA_HARMLESS = frozenset(
    """
    auto_mapping base_model_name_or_path eva_config exclude_modules fan_in_fan_out inference_mode
    layers_pattern layers_to_transform lora_dropout megatron_core peft_version qalora_group_size revision
    runtime_config target_modules task_type
    """.split()
)
_NAME = re.compile(r"\^?\w+(\.\w+)*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Ranks and scales by module; those that a pattern of its last names has go before the common ones."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    by_root: bool  # the scale is alpha / sqrt(rank) (rsLoRA), else alpha / rank
    tied: bool = False  # where a model ties its output matrix to its embedding, that changes with it
    full: tuple[str, ...] = ()  # names of modules that have full weights

    def rank_of(self, module: str) -> int:
        """A module's rank."""
        return _first(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What a module's `B @ A` is multiplied by."""
        rank = self.rank_of(module)
        return _first(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.by_root else rank)


def _first(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first name that ends a module's path; one after `^` is a whole path."""
    for name, value in patterns.items():
        if module == name.removeprefix("^") or module.endswith(f".{name}"):
            return value
    return default


def read_adapter_config(folder: Path) -> LoraConfig:
    """Returns a folder's adapter_config.json. Raises `ConfigError` that names the file and the attribute."""
    try:
        path = hub.member(folder, FILE)
    except HubError as error:
        raise ConfigError(f"{error}: an adapter is a folder with {FILE} and {TENSORS}") from None
    a = check_attributes(load_json(path), LORA_ATTRIBUTES, "LoRA", str(path), harmless=LORA_HARMLESS)
    return LoraConfig(
        rank=a["r"],
        alpha=a["lora_alpha"],
        ranks=_patterns(a["rank_pattern"], (int,), MAX_RANK, f"{path}: rank_pattern"),
        alphas=_patterns(a["alpha_pattern"], (int, float), 1e12, f"{path}: alpha_pattern"),
        by_root=a["use_rslora"],
        tied=a["ensure_weight_tying"],
        full=_names(a["modules_to_save"] or [], str(path)),
    )


def _names(values: list, where: str) -> tuple[str, ...]:
    if not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{where}: modules_to_save must be names of modules, not {str(values)[:60]}")
    return tuple(values)


def _patterns(table: Mapping[str, Any] | None, kinds: tuple, most: float, where: str) -> Mapping[str, Any]:
    for name, value in (table or {}).items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: {name[:60]!r} is a pattern; only names of modules are read, such as q_proj")
        if type(value) not in kinds or not 0 < value <= most:
            raise ConfigError(f"{where}: {name[:60]!r} is {str(value)[:60]}; it must be a number over 0")
    return table or {}


def base_model_name(folder: Path) -> str | None:
    """The name of the model that an adapter was trained on, where it says so."""
    name = load_json(folder / FILE).get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None


def write_adapter_config(
    folder: Path,
    pairs: Mapping[str, tuple[int, float]],
    every: Collection[str],
    *,
    full: Iterable[str] = (),
    tied: bool = False,
    fan_in_fan_out: bool,
    base: str | None,
) -> None:
    """Writes the file: `pairs` are {module: (rank, scale)}, `every` all modules of the model, `base` its name.

    `full` are the modules that have full weights; `tied` says that the output matrix changes as the embedding does.
    """
    alphas = {module: (rank, _alpha(rank, scale)) for module, (rank, scale) in pairs.items()}
    rank, alpha = collections.Counter(alphas.values() or [(1, 1)]).most_common(1)[0][0]
    data = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _by_name({m: r for m, (r, _) in alphas.items() if r != rank}, every),
        "alpha_pattern": _by_name({m: a for m, (_, a) in alphas.items() if a != alpha}, every),
        "target_modules": module_names(pairs, every),
        "fan_in_fan_out": fan_in_fan_out,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "modules_to_save": module_names(full, every) or None,
        "ensure_weight_tying": tied,
        "inference_mode": True,
    }
    write_bytes(folder / FILE, [json.dumps(data, indent=2).encode() + b"\n"])


def _alpha(rank: int, scale: float) -> float:
    """The alpha of a scale that is a float32, as the whole number that it was."""
    alpha = rank * float(scale)
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-6) else alpha


def _by_name(values: Mapping[str, Any], every: Collection[str]) -> dict[str, Any]:
    return {
        name: value
        for value in sorted(set(values.values()))
        for name in module_names([module for module, v in values.items() if v == value], every)
    }


def module_names(modules: Iterable[str], every: Collection[str]) -> list[str]:
    """Names that match these modules and no other: a last name where all that bear it are meant, else whole paths."""
    mine, bearers = set(modules), collections.defaultdict(list)
    for module in every:
        bearers[module.rsplit(".", 1)[-1]].append(module)
    found = []
    for name, alike in bearers.items():
        meant = [module for module in alike if module in mine]
        found += [name] if len(meant) == len(alike) else meant
    return found
