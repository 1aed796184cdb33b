"""What config.json says in two places: the one that transformers obeys is obeyed, or both are named.

Where transformers decides, `tests/parity/test_said_twice_parity.py` holds the same files against it.
"""

import json

import pytest

from vishwamai.errors import ConfigError
from vishwamai.hf import config, export
from vishwamai.models.config import Rope

SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 256}
LLAMA = SIZES | {"model_type": "llama"}
QWEN3 = SIZES | {"model_type": "qwen3", "head_dim": 8, "num_key_value_heads": 2}
GEMMA3 = SIZES | {"model_type": "gemma3_text", "head_dim": 8, "num_key_value_heads": 2}
OLMO3 = SIZES | {"model_type": "olmo3"}
MIXTRAL = SIZES | {"model_type": "mixtral", "num_key_value_heads": 2}
PHI3 = SIZES | {"model_type": "phi3"}
DEEPSEEK = SIZES | {"model_type": "deepseek_v3", "n_routed_experts": 8}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
PLAIN = {"rope_type": "default", "rope_theta": 50.0}


@pytest.fixture
def read(tmp_path):
    """`read(attributes, generation)` -> what the folder says."""

    def read(data, generation=None):
        (tmp_path / "config.json").write_text(json.dumps(data))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return config.read_pretrained(tmp_path)

    return read


def by_type(full, sliding=None) -> dict:
    return {"full_attention": full, "sliding_attention": sliding or {"rope_type": "default", "rope_theta": 7.0}}


TWO_OBJECTS = {  # rope_scaling beside rope_parameters: (attributes, what both say)
    "llama": (LLAMA, YARN, PLAIN),
    "another theta": (LLAMA, PLAIN, PLAIN | {"rope_theta": 51.0}),
    "theta in one alone": (LLAMA, YARN, YARN | {"rope_theta": 5.0}),
    "another factor": (QWEN3, YARN | {"rope_theta": 5.0}, YARN | {"rope_theta": 5.0, "factor": 2.0}),
    "a part of a head": (PHI3, PLAIN, PLAIN | {"partial_rotary_factor": 0.5}),
    "ministral3": (
        SIZES | {"model_type": "ministral3", "num_key_value_heads": 4},
        YARN | {"llama_4_scaling_beta": 0.3},
        YARN,
    ),
    "deepseek": (DEEPSEEK, YARN | {"mscale_all_dim": 1.0}, YARN),
    "hunyuan": (SIZES | {"model_type": "hunyuan_v1_dense"}, {"type": "dynamic", "factor": 1.0, "alpha": 9.0}, PLAIN),
    "gpt_oss": (SIZES | {"model_type": "gpt_oss", "num_key_value_heads": 2}, PLAIN, YARN),
    "gemma3, full layers": (GEMMA3, {"rope_type": "linear", "factor": 8.0}, by_type(PLAIN)),
    "olmo3, full layers": (OLMO3, YARN, by_type(PLAIN)),
}


@pytest.mark.parametrize("case", TWO_OBJECTS)
def test_two_rotations_that_do_not_agree_are_refused_by_both_names(case, read):
    data, old, new = TWO_OBJECTS[case]
    with pytest.raises(ConfigError, match="'rope_scaling' and 'rope_parameters' do not agree: .* keep one of them"):
        read(data | {"rope_scaling": old, "rope_parameters": new})
    read(data | {"rope_parameters": new})  # each of them alone is a configuration
    read(data | {"rope_scaling": old})


AGREEING = {
    "the same": (LLAMA, YARN, YARN),
    "in two dialects": (LLAMA, {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64}, YARN),
    "a theta beside them": (LLAMA | {"rope_theta": 50.0}, {"rope_type": "default"}, PLAIN),
    "nulls": (LLAMA, YARN | {"attention_factor": None}, YARN | {"beta_fast": None}),
    "nothing in one": (LLAMA, {}, PLAIN),
    "nothing in the other": (LLAMA, PLAIN, {}),
    "of full layers": (GEMMA3, {"factor": 8.0}, by_type({"rope_type": "linear", "factor": 8.0})),
}


@pytest.mark.parametrize("case", AGREEING)
def test_two_rotations_that_say_the_same_are_one(case, read):
    data, old, new = AGREEING[case]
    found = read(data | {"rope_scaling": old, "rope_parameters": new}).model
    assert found == read(data | ({"rope_parameters": new} if new else {"rope_scaling": old})).model


INSIDE = {  # what stands in the object goes before what stands beside it
    "theta": (LLAMA | {"rope_theta": 77.0}, PLAIN, Rope(theta=50.0)),
    "theta of a scaling": (LLAMA | {"rope_theta": 77.0}, {"rope_type": "default"}, Rope(theta=77.0)),
    "part": (
        SIZES | {"model_type": "glm4", "head_dim": 8, "num_key_value_heads": 2, "partial_rotary_factor": 0.25},
        {"rope_type": "default", "partial_rotary_factor": 0.75},
        Rope(theta=1e4, fraction=0.75, interleaved=True),
    ),
}


@pytest.mark.parametrize("case", INSIDE)
def test_what_stands_in_the_rotation_goes_before_what_stands_beside_it(case, read):
    data, said, rope = INSIDE[case]
    assert read(data | {"rope_parameters": said}).model.layers[0].rope == rope


def test_thetas_of_full_and_sliding_layers(read):
    """As transformers 5 reads them: OLMo 3 has one attribute, which it takes for the full layers alone."""

    def thetas(data):
        ropes = {layer.window is not None: layer.rope.theta for layer in read(data).model.layers}
        return ropes.get(True), ropes[False]

    few = {"num_hidden_layers": 6}
    assert thetas(GEMMA3 | few | {"rope_theta": 77.0, "rope_local_base_freq": 5.0}) == (5.0, 77.0)
    assert thetas(GEMMA3 | few | {"rope_theta": 77.0, "rope_parameters": by_type(PLAIN)}) == (7.0, 50.0)
    assert thetas(OLMO3 | {"rope_theta": 77.0}) == (5e5, 77.0)
    assert thetas(OLMO3 | {"rope_theta": 77.0, "rope_parameters": by_type(PLAIN, {"rope_type": "default"})}) == (
        5e5,
        50.0,
    )


def test_a_rotation_that_is_there_takes_the_place_of_the_familys_own(read):
    for kind, theta in (("apertus", 12e6), ("ministral3", 1e6), ("gpt_oss", 150_000.0)):
        data = SIZES | {"model_type": kind, "num_key_value_heads": 2}
        said = read(data).model.layers[0].rope
        assert said.scaling != "none" and said.theta == theta
        assert read(data | {"rope_parameters": {}}).model.layers[0].rope.scaling == "none"
    assert read(data | {"rope_theta": 9.0}).model.layers[0].rope.theta == 9.0


WHOLE_HEADS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2", "granite", "ernie4_5", "exaone4", "deepseek_v3")


@pytest.mark.parametrize("kind", WHOLE_HEADS)
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_a_part_of_a_head_is_refused_where_whole_heads_turn(kind, key, read):
    data = SIZES | {"model_type": kind, "num_key_value_heads": 4}
    for said in (PLAIN, YARN):
        with pytest.raises(ConfigError, match=rf"{key}: 'partial_rotary_factor' is 0\.5, and models of this family"):
            read(data | {key: said | {"partial_rotary_factor": 0.5}})
    assert read(data | {key: PLAIN | {"partial_rotary_factor": 1.0}}) == read(data | {key: PLAIN})


def test_a_part_of_a_head_in_the_rotation_of_one_type_of_layer(read):
    for full in (True, False):
        said = by_type(*(PLAIN | ({"partial_rotary_factor": 0.5} if i == full else {}) for i in (True, False)))
        with pytest.raises(ConfigError, match="'partial_rotary_factor' is 0.5"):
            read(GEMMA3 | {"rope_parameters": said})


def test_two_words_for_the_kind_of_a_rotation(read):
    kinds = {"rope_type": "default", "type": "linear", "factor": 8.0}
    with pytest.raises(ConfigError, match="rope_scaling: rope_type is 'default' and type is 'linear'; keep one"):
        read(LLAMA | {"rope_scaling": kinds})
    with pytest.raises(ConfigError, match="rope_type is 'default' and type is 'linear'"):  # transformers reads no type
        read(GEMMA3 | {"rope_scaling": {"type": "linear", "factor": 8.0}})
    assert read(LLAMA | {"rope_scaling": kinds | {"rope_type": "linear"}}).model.layers[0].rope.scaling == "linear"


def test_two_lengths_before_the_scaling(read):
    beside = {"original_max_position_embeddings": 32}
    with pytest.raises(ConfigError, match=r"'original_max_position_embeddings' is 64, and beside it 32"):
        read(PHI3 | beside | {"rope_scaling": LONG | {"original_max_position_embeddings": 64}})
    for said in (LONG, LONG | beside, LONG | {"rope_type": "su"}):
        rope = read(PHI3 | beside | {"rope_scaling": said}).model.layers[0].rope
        assert (rope.scaling, rope.original_max_length) == ("longrope", 32)


def test_what_is_overlooked_there_is_told_here(read):
    said = YARN | {"attn_factor": 0.8782488562869419}
    with pytest.warns(UserWarning, match="rope_scaling: 'attn_factor' is overlooked.*write attention_factor"):
        found = read(LLAMA | {"rope_scaling": said})
    assert found == read(LLAMA | {"rope_scaling": YARN}) == read(LLAMA | {"rope_scaling": YARN | {"finetuned": True}})
    assert read(LLAMA | {"rope_scaling": YARN | {"attention_factor": 1.0}}) != found


def test_dynamic_scaling_begins_at_the_length_that_the_file_has(read, tmp_path):
    found = read(LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "rope_theta": 9.0})
    assert found.model.max_length == 768
    assert found.model.layers[0].rope == Rope(theta=9.0, scaling="dynamic", factor=3.0, original_max_length=256)
    export.write_configs(tmp_path, found.model, export.choose_family(found.model), found.generation, "float32")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["max_position_embeddings"] == 256 and config.read_pretrained(tmp_path).model == found.model


EXPERTS = {"num_local_experts": 4, "num_experts": 8}


@pytest.mark.parametrize("data", [MIXTRAL, QWEN3 | {"model_type": "qwen3_moe"}], ids=["mixtral", "qwen3_moe"])
def test_experts_under_two_names(data, read):
    with pytest.raises(ConfigError, match="'num_experts' is 8, and 'num_local_experts', another name of it, is 4"):
        read(data | EXPERTS)
    alike = [read(data | said).model for said in ({"num_experts": 8}, EXPERTS | {"num_local_experts": 8})]
    assert alike[0] == alike[1] == read(data | {"num_local_experts": 8, "num_experts": None}).model


def test_epsilons_under_two_names(read):
    data = SIZES | {"model_type": "starcoder2", "norm_epsilon": 1e-5}
    assert read(data | {"layer_norm_epsilon": 1e-5}) == read(data)
    with pytest.raises(ConfigError, match="'norm_epsilon' is 1e-05, and 'layer_norm_epsilon', another name of it"):
        read(data | {"layer_norm_epsilon": 1e-6})


def test_layers_by_name_go_before_a_pattern(read):
    types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    for data, pattern in (
        (GEMMA3, {"sliding_window_pattern": 2}),
        (QWEN3 | {"use_sliding_window": True, "sliding_window": 8}, {"max_window_layers": 0}),
        (SIZES | {"model_type": "exaone4"}, {"sliding_window_pattern": "LG"}),
        (SIZES | {"model_type": "cohere2"}, {"sliding_window_pattern": 2}),
    ):
        windows = [layer.window is not None for layer in read(data | pattern | {"layer_types": types}).model.layers]
        assert windows == [False, True, True, False]
        assert [layer.window is not None for layer in read(data | pattern).model.layers] != windows


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_windows_from_the_first_layer_on(kind, read, tmp_path):
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    found = read(QWEN3 | {"model_type": kind} | windows)
    assert [layer.window for layer in found.model.layers] == [8] * 4
    export.write_configs(tmp_path, found.model, kind, found.generation, "float32")
    assert config.read_pretrained(tmp_path).model == found.model


def test_heads_and_their_width(read):
    assert read(LLAMA | {"head_dim": None, "num_key_value_heads": None}).model == read(LLAMA).model
    assert read(LLAMA | {"head_dim": 16}).model.head_dim == 16  # not hidden_size / num_attention_heads, which is 8
    assert read(SIZES | {"model_type": "mistral", "num_attention_heads": 8}).model.n_kv_heads == 8  # its default
    assert read(SIZES | {"model_type": "mistral", "num_key_value_heads": None}).model.n_kv_heads == 4


WHOLE = {"model_type": "gemma3", "text_config": {k: v for k, v in GEMMA3.items() if k != "model_type"}}


def test_a_text_model_inside_and_what_is_said_of_the_whole(read):
    text = WHOLE["text_config"]
    assert read(WHOLE).model.tie_embeddings
    assert not read(WHOLE | {"tie_word_embeddings": False}).model.tie_embeddings
    with pytest.raises(ConfigError, match="'tie_word_embeddings' is True, and in text_config it is not"):
        read(WHOLE | {"text_config": text | {"tie_word_embeddings": False}})
    inside = WHOLE | {"text_config": text | {"eos_token_id": 7, "bos_token_id": 3}}
    assert read(inside).generation.eos_ids == (7,)
    assert read(inside | {"eos_token_id": [5, 6]}).generation.eos_ids == (5, 6)
    found = read(inside | {"eos_token_id": [5, 6]}, {"eos_token_id": 4}).generation
    assert (found.eos_ids, found.bos_id) == ((4,), 3)


def test_sampling_in_config_counts_where_there_is_no_other_file(read):
    said = {"repetition_penalty": 1.7, "temperature": 0.3, "num_beams": 4, "no_repeat_ngram_size": 2}
    found = read(LLAMA | said | {"eos_token_id": 5}).generation
    assert (found.repetition_penalty, found.temperature, found.eos_ids) == (1.7, 0.3, (5,))
    found = read(LLAMA | said | {"eos_token_id": 5}, {"top_k": 9}).generation
    assert (found.repetition_penalty, found.temperature, found.top_k) == (None, None, 9)


HARMLESS = {
    "unsloth": {"unsloth_fixed": True, "unsloth_version": "2025.3.19"},
    "attention's implementation": {"_attn_implementation_autoset": True, "attn_implementation": "flash_attention_2"},
    "transformers.js": {"transformers.js_config": {"dtype": "q4"}},
    "names": {"_name_or_path": "x/y", "name_or_path": "x/y", "architectures": ["LlamaForCausalLM"]},
    "all of a configuration": {"tf_legacy_loss": False, "use_bfloat16": False, "pruned_heads": {}, "torchscript": False}
    | {"cross_attention_hidden_size": None, "decoder_start_token_id": None, "tie_encoder_decoder": False},
    "generation": {"min_length": 0, "num_beams": 1, "bad_words_ids": None, "typical_p": 1.0, "early_stopping": False},
    "nanotron": {"is_llama_config": True, "rope_interleaved": False},
    "vicuna": {"max_sequence_length": 16384},
    "dtypes": {"dtype": "float16", "torch_dtype": "bfloat16"},
    "read from a GGUF": {"_model_name_or_path": "Smollm2 135M", "unk_token_id": 0},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_tools_leave_in_a_configuration_changes_nothing(case, read):
    assert read(LLAMA | HARMLESS[case]).model == read(LLAMA).model


HARMFUL = {
    "MLX": (
        {"quantization": {"group_size": 64, "bits": 4}},
        "'quantization' says that the weights are quantised as MLX",
    ),
    "pruned heads": ({"pruned_heads": {"0": [1]}}, "'pruned_heads' is"),
    "neighbours as pairs": ({"rope_interleaved": True}, "'rope_interleaved' is True"),
    "unknown": ({"dual_chunk_attention_config": {"chunk_size": 4}}, "'dual_chunk_attention_config' is not known"),
    "two of a storage": (
        {"quantization_config": {"quant_method": "fp8"}, "compression_config": {"quant_method": "compressed-tensors"}},
        "quantization_config and compression_config do not agree",
    ),
    "the older name": ({"compression_config": {"quant_method": "awq"}}, "weights quantised by 'awq' are not read"),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_what_would_change_the_model_is_refused_by_name(case, read, tmp_path):
    said, message = HARMFUL[case]
    with pytest.raises(ConfigError, match=message):
        read(LLAMA | said)
    assert any(problem.name in str(said) for problem in config.config_problems(tmp_path))


def test_a_storage_by_its_older_name_is_read(read):
    said = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    found = [read(LLAMA | {name: said}).storage for name in ("quantization_config", "compression_config")]
    assert found[0] == found[1] == read(LLAMA | {name: said for name in config.STORED}).storage
    assert found[0] is not None and found[0].block == (128, 128)
