"""What an attribute of config.json may be, the attributes that most families have, and those that change nothing.

An attribute that a family neither has nor lists as harmless is refused by name. The defaults are those of transformers'
configuration classes. It knows no family and no model.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vishwamai.errors import ConfigError
from vishwamai.hf.problem import CheckpointProblem, shorten

REQUIRED = object()
LENGTH = 2**31 - 1  # positions are 32-bit integers
HEADS = 2**14


@dataclasses.dataclass(frozen=True)
class Attribute:
    """What an attribute may be. `kinds` are exact JSON types; numbers lie between `least` and `most`."""

    kinds: tuple[type, ...]
    default: Any = REQUIRED
    least: float = 0
    most: float = 0
    choices: tuple = ()


def size(default: Any = REQUIRED, most: int = 2**20, *, least: int = 1, null: bool = False) -> Attribute:
    """A whole number, `least` or more. With `null`, or None as default, it may be null too."""
    return Attribute((int, type(None)) if null or default is None else (int,), default, least, most)


def number(default: Any = REQUIRED, *, null: bool = False) -> Attribute:
    """A number over 0. With `null`, or None as default, it may be null too."""
    return Attribute((int, float, type(None)) if null or default is None else (int, float), default, 1e-30, 1e12)


def flag(default: bool) -> Attribute:
    """true or false."""
    return Attribute((bool,), default)


def only(*choices: Any) -> Attribute:
    """One of these values, the first by default; no other is computed."""
    return Attribute((), choices[0], choices=choices)


LIST = Attribute((list, type(None)), None)
OBJECT = Attribute((dict, type(None)), None)
TOKENS = Attribute((int, list, type(None)), None, -1, 2**31)
TOKEN = Attribute((int, type(None)), None, -1, 2**31)

DECODER_ONLY = {  # what no decoder-only model has
    "is_encoder_decoder": only(False),
    "add_cross_attention": only(False),
    "cross_attention_hidden_size": only(None),
    "pruned_heads": only({}, None),
}
COMMON = {
    **DECODER_ONLY,
    "vocab_size": size(most=2**24),
    "hidden_size": size(),
    "intermediate_size": size(most=2**22),
    "num_hidden_layers": size(most=1024),
    "num_attention_heads": size(HEADS),
    "num_key_value_heads": size(None, HEADS),
    "head_dim": size(None, HEADS),
    "max_position_embeddings": size(2048, LENGTH),
    "rms_norm_eps": number(1e-6),
    "hidden_act": only("silu", "swish"),
    "tie_word_embeddings": flag(False),
    "rope_parameters": OBJECT,
    "rope_theta": number(None),
    "rope_scaling": OBJECT,
    "eos_token_id": TOKENS,
    "bos_token_id": TOKENS,
    "pad_token_id": TOKEN,
}
WINDOW = {"use_sliding_window": flag(False), "sliding_window": size(4096, LENGTH, null=True)}
EXPERT_ATTRIBUTES = {"num_experts_per_tok": size(2, HEADS), "num_local_experts": size(None, HEADS)}

HARMLESS = frozenset(
    """
    _attn_implementation_autoset _commit_hash _model_name_or_path _name_or_path _num_labels _sliding_window_pattern
    architectures attention_dropout
    attn_implementation cache_implementation chunk_size_feed_forward decoder_start_token_id dtype finetuning_task
    id2label initializer_range is_decoder label2id max_sequence_length max_window_layers mm_tokens_per_image
    model_type name_or_path num_labels output_attentions output_hidden_states output_router_logits prefix
    pretraining_tp problem_type return_dict router_aux_loss_coef router_jitter_noise sep_token_id tf_legacy_loss
    tie_encoder_decoder tokenizer_class torch_dtype torchscript transformers.js_config transformers_version
    unk_token_id unsloth_fixed unsloth_version use_bfloat16 use_cache
    aux_loss_alpha num_nextn_predict_layers qk_head_dim seq_aux
    experts_per_token initial_context_length is_llama_config
    attn_pdrop embd_pdrop n_ctx summary_activation summary_first_dropout summary_proj_to_labels summary_type
    output_past predict_special_tokens summary_use_proj task_specific_params
    embedding_dropout eod_token_id resid_pdrop residual_dropout
    cla_share_factor class_num dense_list im_end_id im_newline_id im_start_id mask_init_id org_vocab_size pad_id
    pool_type skip_cls_token text_end_id text_start_id
    hidden_dropout full_attn_mod interpolate_factor
    boi_token_id boi_token_index eoi_token_id eoi_token_index image_token_id image_token_index vision_config

    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values
    repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    """.split()
)  # the last lines are of generating: those of sampling are read where there is no generation_config.json
REFUSED = {
    "auto_map": "names code to be run from the checkpoint, which is never done",
    "trust_remote_code": "asks for code to be run from the checkpoint, which is never done",
    "quantization": "says that the weights are quantised as MLX does, which is not read; use the original weights",
    "quantization_config": "says that a part of the model is quantised, which is read of a whole model alone",
}
ALIASES = (  # names of one thing; a file may have both where they agree
    ("num_experts", "num_local_experts"),
    ("norm_epsilon", "layer_norm_epsilon"),
)


def check_attributes(
    data: Mapping[str, Any],
    known: Mapping[str, Attribute],
    model_type: str,
    where: str,
    *,
    architecture: str | None = None,
    harmless: Collection[str] = HARMLESS,
) -> dict[str, Any]:
    """Returns every known attribute, from the file or by default. Raises `ConfigError` that names what is wrong."""
    for problem in attribute_problems(data, known, model_type, architecture=architecture, harmless=harmless):
        raise ConfigError(f"{where}: {problem.name!r} {problem.why}")
    return {key: data.get(key, attribute.default) for key, attribute in known.items()}


def attribute_problems(
    data: Mapping[str, Any],
    known: Mapping[str, Attribute],
    model_type: str,
    *,
    architecture: str | None = None,
    harmless: Collection[str] = HARMLESS,
) -> Iterator[CheckpointProblem]:
    """Yields what is not known, not read or out of range in the object of a config.json."""
    for key, value in data.items():
        if key in known or key in harmless or (key in REFUSED and value in (None, False, {})):
            continue
        if key == "auto_map" and _names(value, architecture):
            continue
        yield CheckpointProblem(
            key, shorten(value), REFUSED.get(key, f"is not known for {model_type}, so it is not loaded")
        )
    for key, attribute in known.items():
        if key not in data:
            if attribute.default is REQUIRED:
                yield CheckpointProblem(key, "", "is missing")
        elif (why := _fault(data[key], attribute)) is not None:
            yield CheckpointProblem(key, shorten(data[key]), why)
    for one, other in ALIASES:
        if one in known and other in known and None not in (a := data.get(one), b := data.get(other)) and a != b:
            yield CheckpointProblem(
                one, shorten(a), f"is {shorten(a)}, and {other!r}, another name of it, is {shorten(b)}"
            )


def _names(auto_map: Any, architecture: str | None) -> bool:
    """Whether the code that a checkpoint brings for a language model is of the class that is read without it."""
    named = auto_map.get("AutoModelForCausalLM") if isinstance(auto_map, dict) else None
    return isinstance(named, str) and named.rpartition(".")[2] == architecture


def _fault(value: Any, attribute: Attribute) -> str | None:
    """Why an attribute cannot have this value, if it cannot."""
    if attribute.choices:
        if any(value == c and type(value) is type(c) for c in attribute.choices):
            return None
        return f"is {shorten(value)}; only {' or '.join(repr(c) for c in attribute.choices)} is known"
    if type(value) not in attribute.kinds:
        return f"must be {_kinds(attribute)}, not {shorten(value)}"
    if type(value) in (int, float) and not attribute.least <= value <= attribute.most:
        return f"is {shorten(value)}; it must lie in {attribute.least}..{attribute.most}"
    return None


def _kinds(attribute: Attribute) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
    return " or ".join(names.get(kind, "null") for kind in attribute.kinds)
