"""What config.json of published mixtures of experts means, and what of it is refused."""

import json

import pytest

from vishwamai.errors import ConfigError
from vishwamai.hf import config, export
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.pieces import is_ignored
from vishwamai.models.config import Layer, Rope

SIZES = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
QWEN = SIZES | {
    "model_type": "qwen2_moe",
    "num_key_value_heads": 2,
    "num_experts": 6,
    "shared_expert_intermediate_size": 40,
}
GLM = {  # as published with GLM 4.5 Air, and smaller
    **SIZES,
    "model_type": "glm4_moe",
    "attention_bias": True,
    "head_dim": 128,
    "partial_rotary_factor": 0.5,
    "intermediate_size": 96,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.0,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 2,
    "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "use_qk_norm": False,
}
MINIMAX = {  # as published with MiniMax M2, and smaller
    **SIZES,
    "model_type": "minimax_m2",
    "attn_type_list": [1, 1, 1, 1],
    "head_dim": 128,
    "intermediate_size": 24,
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_beta": 1.0,
    "mlp_intermediate_size": 96,
    "mtp_transformer_layers": 1,
    "num_experts_per_tok": 8,
    "num_key_value_heads": 2,
    "num_local_experts": 16,
    "num_mtp_modules": 3,
    "qk_norm_type": "per_layer",
    "rope_theta": 5000000,
    "rotary_dim": 64,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "shared_moe_mode": "sigmoid",
    "sliding_window": None,
    "use_mtp": True,
    "use_qk_norm": True,
    "use_routing_bias": True,
}
ERNIE = SIZES | {"model_type": "ernie4_5_moe", "intermediate_size": 96, "num_key_value_heads": 2}
ALPHA = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "mscale": 1.0}
HUNYUAN = SIZES | {"model_type": "hunyuan_v1_moe", "intermediate_size": 24, "num_experts": 8, "moe_topk": [2, 2, 2, 2]}


@pytest.fixture
def read(tmp_path):
    """Reads an object as the config.json of a folder."""

    def read(data: dict):
        (tmp_path / "config.json").write_text(json.dumps(data))
        return config.read_pretrained(tmp_path)

    return read


def test_qwen2_moe_slides_in_every_other_of_the_first_layers(read):
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    assert [x.window for x in read(QWEN | window).model.layers] == [8, None, None, None]
    off = read(QWEN | {"use_sliding_window": False, "sliding_window": 0}).model  # as transformers 5 writes it
    assert [x.window for x in off.layers] == [None] * 4
    assert (off.d_shared, off.shared_gate, off.attn_bias) == (40, True, True)


def test_glm4_moe(read):
    model = read(GLM).model
    rope = Rope(theta=1e6, fraction=0.5)
    assert model.layers == (Layer(rope=rope), *(Layer(rope=rope, moe=True),) * 3)
    assert (model.router, model.choice_bias, model.d_shared, model.route_scale) == ("sigmoid", True, 24, 1.0)
    assert (model.attn_bias, model.o_bias, model.qk_norm) == (True, False, False)
    assert read({k: v for k, v in GLM.items() if k != "partial_rotary_factor"}).model == model


@pytest.mark.parametrize(("data", "ignored"), [("glm4_moe", True), ("deepseek_v3", True), ("kimi_k2", False)])
def test_the_layer_after_the_last_predicts_a_further_token_and_is_left_unread(data, ignored, read):
    cfg = read(GLM).model
    assert is_ignored(FAMILIES[data], "model.layers.4.mlp.experts.3.up_proj.weight", cfg) is ignored
    for layer in (3, 5, 14, 44):
        assert not is_ignored(FAMILIES[data], f"model.layers.{layer}.eh_proj.weight", cfg)
    assert is_ignored(FAMILIES[data], "model.layers.3.self_attn.rotary_emb.inv_freq", cfg)


def test_ernies_further_layers_are_left_unread(read):
    assert is_ignored(FAMILIES["ernie4_5_moe"], "model.mtp_block.0.mlp.up_proj.weight", read(ERNIE).model)


def test_minimax_says_in_numbers_how_much_of_a_head_turns(read):
    model = read(MINIMAX).model
    assert model.layers == (Layer(rope=Rope(theta=5e6, fraction=0.5), moe=True),) * 4
    assert (model.n_experts, model.d_expert, model.qk_norm_whole) == (16, 24, True)
    assert read(MINIMAX | {"rotary_dim": 32}).model.layers[0].rope.fraction == 0.25
    assert read(MINIMAX | {"rotary_dim": None}).model.layers[0].rope.fraction == 1.0


def test_ernie_says_from_which_layer_to_which_and_how_often(read):
    def moe(**change) -> list[int]:
        return [i for i, x in enumerate(read(ERNIE | {"num_hidden_layers": 8} | change).model.layers) if x.moe]

    assert moe() == [1, 2, 3, 4, 5, 6, 7]
    assert moe(moe_layer_start_index=2, moe_layer_end_index=5, moe_layer_interval=2) == [3, 5]
    assert read(ERNIE | {"moe_num_shared_experts": 0}).model.d_shared == 0


def test_hunyuan_stretches_theta_by_alpha(read):
    plain = read(HUNYUAN).model
    model = read(HUNYUAN | {"rope_scaling": ALPHA, "head_dim": 128}).model
    assert (plain.layers[0].rope.theta, model.layers[0].rope.theta) == (1e4, 1e4 * 1000 ** (128 / 126))
    assert (model.n_experts_per_token, model.d_expert, model.d_shared) == (2, 24, 24)


@pytest.mark.parametrize("data", [QWEN, GLM, MINIMAX, ERNIE, HUNYUAN], ids=lambda data: data["model_type"])
def test_what_is_written_reads_back_as_the_same_model(data, read, tmp_path):
    found = read(data)
    assert export.choose_family(found.model) == data["model_type"]
    export.write_configs(tmp_path, found.model, data["model_type"], found.generation, "float32")
    again = config.read_pretrained(tmp_path)
    assert (again.model_type, again.model, again.generation) == (found.model_type, found.model, found.generation)


REFUSED = {
    "a bias of half the experts' choice": (MINIMAX, {"use_routing_bias": False}, "'use_routing_bias' is False"),
    "scores": (MINIMAX, {"scoring_func": "softmax"}, "'scoring_func' is 'softmax'"),
    "norm of each head": (MINIMAX, {"qk_norm_type": "per_head"}, "'qk_norm_type' is 'per_head'"),
    "linear attention": (MINIMAX, {"attn_type_list": [1, 0, 1, 1]}, "'attn_type_list' has a layer"),
    "more than a head": (MINIMAX, {"rotary_dim": 256}, "rope fraction is 2.0"),
    "groups": (GLM, {"n_group": 3}, "16 experts do not make 3 groups"),
    "no shared expert": (GLM, {"n_shared_experts": 0}, "'n_shared_experts' is 0"),
    "another family's": (GLM, {"shared_expert_intermediate_size": 8}, "'shared_expert_intermediate_size' is not known"),
    "biases": (ERNIE, {"use_bias": True}, "'use_bias' is True"),
    "least sum": (ERNIE, {"moe_norm_min": 0.5}, "'moe_norm_min' is 0.5"),
    "experts by layer": (HUNYUAN, {"moe_topk": [1, 2, 2, 2]}, "'moe_topk' must be one"),
    "another name": (HUNYUAN, {"attention_head_dim": 32}, "'attention_head_dim' is 32"),
    "two widths": (HUNYUAN, {"moe_intermediate_size": [24, 24, 24, 12]}, "'moe_intermediate_size' must be one"),
    "another width": (HUNYUAN, {"moe_intermediate_size": 12}, "'moe_intermediate_size' is known as 24 alone"),
    "shared experts": (HUNYUAN, {"num_shared_expert": [2, 2, 2, 2]}, "'num_shared_expert' is known as 1 alone"),
    "latent": (HUNYUAN, {"use_mla": True}, "'use_mla' is True"),
    "no factor": (HUNYUAN, {"rope_scaling": {"type": "dynamic"}}, "rope_type 'dynamic' needs factor"),
    "alpha": (HUNYUAN, {"rope_scaling": ALPHA | {"alpha": "1"}}, "alpha must be numbers over 0"),
    "narrow heads": (HUNYUAN, {"rope_scaling": ALPHA, "head_dim": 2}, "heads of 4 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(case, read):
    data, change, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        read(data | change)
