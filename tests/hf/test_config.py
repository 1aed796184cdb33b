"""config.json of published models, in both dialects; what is refused; and what is written and read back."""

import json

import pytest

from vishwamai.errors import ConfigError
from vishwamai.hf import config, export
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.models.config import Layer, ModelConfig, Rope, group_layers, uniform

LLAMA = {  # as published with Llama 3.2 1B
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
QWEN3_MOE = {  # as published with Qwen3 30B-A3B
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GEMMA3 = {  # as published with Gemma 3 4B, whose text model leaves out what is the default
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


@pytest.fixture
def read(tmp_path):
    """`read(config, generation)` writes a folder and reads it."""

    def write_and_read(data, generation=None):
        (tmp_path / "config.json").write_text(data if isinstance(data, str) else json.dumps(data))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return config.read_pretrained(tmp_path)

    return write_and_read


def test_llama(read):
    rope = Rope(theta=500000.0, scaling="llama3", factor=32.0, original_max_length=8192)
    found = read(
        LLAMA,
        {
            "eos_token_id": LLAMA["eos_token_id"],
            "temperature": 0.6,
            "top_p": 0.9,
            "do_sample": True,
            "transformers_version": "4.45",
        },
    )
    assert found.model == ModelConfig(
        vocab_size=128256,
        d_model=2048,
        d_ff=8192,
        n_heads=32,
        n_kv_heads=8,
        head_dim=64,
        stacks=uniform(16, rope=rope),
        max_length=131072,
        norm_eps=1e-5,
        tie_embeddings=True,
    )
    assert found.generation == GenerationConfig(
        eos_ids=(128001, 128008, 128009), bos_id=128000, temperature=0.6, top_p=0.9, do_sample=True
    )


def test_qwen3_moe(read):
    model = read(QWEN3_MOE).model
    assert model.stacks == uniform(48, rope=Rope(theta=1e6), moe=True)
    assert (model.n_experts, model.n_experts_per_token, model.d_expert, model.norm_topk) == (128, 8, 768, True)
    assert (model.qk_norm, model.head_dim, model.tie_embeddings) == (True, 128, False)


def test_gemma3_of_text_and_images_is_read_as_its_text_model(read):
    found = read(GEMMA3)
    model = found.model
    sliding = Layer(window=1024, rope=Rope(theta=10000.0))
    full = Layer(rope=Rope(theta=1e6, scaling="linear", factor=8.0))
    assert model.layers == (((sliding,) * 5 + (full,)) * 6)[:34]
    assert [len(stack.pattern) * stack.repeats for stack in model.stacks] == [30, 4]
    assert (model.vocab_size, model.n_heads, model.n_kv_heads, model.head_dim) == (262208, 8, 4, 256)
    assert (model.embed_scale, model.attn_scale, model.norm_offset) == (2560**0.5, 1 / 16, 1.0)
    assert found.generation.eos_ids == (1, 106)


def test_generation_config_wins_over_config(read):
    found = read(LLAMA, {"eos_token_id": 7, "pad_token_id": -1, "bos_token_id": None})
    assert (found.generation.eos_ids, found.generation.pad_id, found.generation.bos_id) == ((7,), None, 128000)


def test_what_is_left_out_has_the_default_of_the_family(read):
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    model = read({key: LLAMA[key] for key in (*sizes, "model_type")}).model
    assert (model.n_kv_heads, model.head_dim, model.max_length, model.norm_eps) == (32, 64, 2048, 1e-6)
    assert model.layers[0].rope == Rope(theta=10000.0)


NATIVE = {"AutoConfig": "configuration_llama.LlamaConfig", "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}


@pytest.mark.parametrize(
    "code", [NATIVE, {"AutoModelForCausalLM": "someone/llama--modeling.LlamaForCausalLM"}, {}, None]
)
def test_code_for_the_class_that_is_read_natively_changes_nothing(code, read):
    assert read(LLAMA | {"auto_map": code}) == read(LLAMA)
    with pytest.raises(ConfigError, match="asks for code"):
        read(LLAMA | {"auto_map": code, "trust_remote_code": True})


REFUSED = {
    "unknown attribute": ({"logit_scale": 2.0}, "'logit_scale' is not known for llama"),
    "attribute of another family": ({"sliding_window": 4096}, "'sliding_window' is not known"),
    "unknown architecture": ({"model_type": "mamba"}, "'mamba' is not known; known are LlamaForCausalLM"),
    "no architecture": ({"model_type": None}, "'model_type' must name"),
    "code": ({"auto_map": {"AutoConfig": "x.Y"}}, "'auto_map' names code"),
    "code for another class": ({"auto_map": NATIVE | {"AutoModelForCausalLM": "x.Y"}}, "'auto_map' names code"),
    "code for a class that ends alike": (
        {"auto_map": NATIVE | {"AutoModelForCausalLM": "x.MyLlamaForCausalLM"}},
        "code",
    ),
    "code for no language model": ({"auto_map": {"AutoModel": "x.LlamaForCausalLM"}}, "'auto_map' names code"),
    "code in a list": ({"auto_map": {"AutoModelForCausalLM": ["x.LlamaForCausalLM"]}}, "'auto_map' names code"),
    "trust": ({"trust_remote_code": True}, "asks for code"),
    "hidden attention switch": (
        {"_attn_implementation_internal": "x/y"},
        "'_attn_implementation_internal' is not known",
    ),
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, "weights quantised by 'awq' are not read"),
    "activation": ({"hidden_act": "relu"}, "'hidden_act' is 'relu'; only 'silu' or 'swish'"),
    "memory bomb": ({"hidden_size": 2**40}, "'hidden_size' is 1099511627776; it must lie in"),
    "layers": ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000"),
    "vocabulary 0": ({"vocab_size": 0}, "'vocab_size' is 0"),
    "vocabulary -1": ({"vocab_size": -1}, "'vocab_size' is -1"),
    "heads do not divide": ({"num_key_value_heads": 5}, "n_heads 32 is not a multiple of n_kv_heads 5"),
    "width does not divide": ({"head_dim": None, "num_attention_heads": 24}, "2048 is not a multiple"),
    "no kv heads": ({"num_key_value_heads": 0}, "'num_key_value_heads' is 0"),
    "odd heads": ({"head_dim": 63}, "head_dim 63 is odd"),
    "length": ({"max_position_embeddings": 2**62}, "'max_position_embeddings' is"),
    "true as a number": ({"num_hidden_layers": True}, "must be a whole number, not True"),
    "float as a count": ({"num_hidden_layers": 2.0}, "must be a whole number, not 2.0"),
    "text as a number": ({"rms_norm_eps": "1e-5"}, "must be a whole number or a number, not '1e-5'"),
    "eos": ({"eos_token_id": ["</s>"]}, "eos_token_id: must be a token id"),
    "rope type": ({"rope_scaling": {"rope_type": "axial", "factor": 4.0}}, "rope_type 'axial' is not known"),
    "rope field": ({"rope_scaling": {"rope_type": "linear", "factor": 4.0, "beta": 1}}, "'beta' is not known"),
    "rope factor missing": ({"rope_scaling": {"type": "linear"}}, "'linear' needs factor"),
    "rope theta": ({"rope_theta": 0}, "'rope_theta' is 0"),
    "rope theta in parameters": (
        {"rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": -1}},
        "rope_theta: must",
    ),
    "rope factor": ({"rope_scaling": {"type": "linear", "factor": "4"}}, "factor: must be a number over 0"),
    "rope list": ({"rope_parameters": [1]}, "'rope_parameters' must be an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_that_cannot_be_meant_is_refused_by_name(case, read, tmp_path):
    change, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as raised:
        read(LLAMA | change)
    assert str(raised.value).startswith(str(tmp_path / "config.json"))


TEXTS = {
    "not JSON": ("{", "is not JSON"),
    "NaN": ('{"model_type": "llama", "rope_theta": NaN}', "not a finite number"),
    "key twice": ('{"model_type": "llama", "model_type": "llama"}', "twice"),
    "deep": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper"),
    "digits": ('{"vocab_size": ' + "9" * 5000 + "}", "thousands of digits"),
    "BOM": ("\ufeff{}", "is not JSON"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_file_that_is_not_strict_json_is_refused(case, read):
    with pytest.raises(ConfigError, match=TEXTS[case][1]):
        read(TEXTS[case][0])


def test_an_empty_or_missing_folder_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=f"{folder}/config.json: cannot be read"):
            config.read_pretrained(folder)


QWEN3 = {k: v for k, v in LLAMA.items() if k not in ("rope_scaling", "mlp_bias", "pretraining_tp")} | {
    "model_type": "qwen3",
    "num_hidden_layers": 4,
}


def test_qwen3_slides_from_a_layer_on(read):
    windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
    assert [x.window for x in read(QWEN3 | windows).model.layers] == [None, None, None, 8]
    assert [x.window for x in read(QWEN3 | windows | {"use_sliding_window": False}).model.layers] == [None] * 4
    types = ["sliding_attention", "full_attention"] * 2
    assert [x.window for x in read(QWEN3 | windows | {"layer_types": types}).model.layers] == [8, None] * 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layer_types": ["full_attention"]}, "4 times"),
        ({"layer_types": ["chunked_attention"] * 4}, "full_attention or sliding_attention"),
        ({"layer_types": ["sliding_attention"] * 4}, "no sliding window is set"),
    ],
)
def test_layer_types_that_contradict_the_rest_are_refused(change, message, read):
    with pytest.raises(ConfigError, match=message):
        read(QWEN3 | change)


def test_qwen3_moe_says_which_layers_are_dense(read):
    change = {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    assert [x.moe for x in read(QWEN3_MOE | change).model.layers] == [False, True, False, False, False, True]


def test_gemma3_refuses_what_transformers_would_ignore(read):
    text = GEMMA3["text_config"]
    for change in ({"attn_logit_softcapping": 50.0}, {"use_bidirectional_attention": True}):
        with pytest.raises(ConfigError, match=f"text_config: '{next(iter(change))}' is"):
            read(GEMMA3 | {"text_config": text | change})


PUBLISHED = {"llama": LLAMA, "qwen3": QWEN3, "qwen3_moe": QWEN3_MOE}


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_what_is_written_reads_back_as_the_same_model(model_type, read, tmp_path):
    found = read(PUBLISHED[model_type])
    assert export.choose_family(found.model) == model_type
    export.write_configs(tmp_path, found.model, model_type, found.generation, "bfloat16")
    assert config.read_pretrained(tmp_path) == found


def test_the_text_model_of_gemma3_is_written_as_such(read, tmp_path):
    found = read(GEMMA3)
    export.write_configs(tmp_path, found.model, export.choose_family(found.model), found.generation, "float32")
    again = config.read_pretrained(tmp_path)
    assert (again.model_type, again.model, again.generation) == ("gemma3_text", found.model, found.generation)


def test_a_model_of_no_family_is_written_as_our_own_and_told_what_each_lacks(tmp_path):
    sizes = {"vocab_size": 8, "d_model": 8, "d_ff": 8, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4}
    model = ModelConfig(**sizes, stacks=group_layers((Layer(window=3), Layer())), attn_softcap=2.0)
    with pytest.warns(UserWarning, match=r"llama \(attn_softcap, layers\).*gemma2 \(.*gelu_pytorch_tanh.*\)"):
        assert export.choose_family(model) == "vishwamai"
    export.write_configs(tmp_path, model, "vishwamai", GenerationConfig(eos_ids=(3,)), "float32")
    found = config.read_pretrained(tmp_path)
    assert (found.model_type, found.model, found.generation.eos_ids) == ("vishwamai", model, (3,))
    assert export.choose_family(model, "vishwamai") == "vishwamai"


def test_our_own_configuration_is_read_strictly(read):
    with pytest.raises(ConfigError, match="config.json: model.*vocab_size"):
        read({"model_type": "vishwamai"})
    with pytest.raises(ConfigError, match="n_layers"):
        read({"model_type": "vishwamai", "model": {"vocab_size": 8, "n_layers": 2}})


def test_a_preferred_family_is_used_or_refused(read):
    model = read(LLAMA).model
    assert export.choose_family(model, "mistral") == "mistral"
    assert export.choose_family(read(GEMMA3).model, "gemma3") == "gemma3_text"
    with pytest.raises(ConfigError, match=r"cannot be written; what does not fit: qwen3 \(qk_norm\)"):
        export.choose_family(model, "qwen3")
    with pytest.raises(ConfigError, match="'mamba' is not written"):
        export.choose_family(model, "mamba")
