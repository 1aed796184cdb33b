"""Latent attention whose values are narrower than the heads, as wide, or wider: logits, the cache, and the kernels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import ConfigError
from vishwamai.hf import config, export
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.models import cache as kv
from vishwamai.models import cost, latent, transformer
from vishwamai.models.attention import Implementations, LayerInputs, RopeAngles, attend_uncached
from vishwamai.models.config import Latent, Layer, ModelConfig, uniform
from vishwamai.ops import rope

from ..random_weights import random_weights

WIDTHS = {"narrower": 4, "as wide": 10, "wider": 14, "much wider": 32}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 61, (2, 20)))


def made(d_value: int, q_rank: int | None = 7) -> ModelConfig:
    sizes = {"vocab_size": 61, "d_model": 32, "d_ff": 48, "n_heads": 4, "n_kv_heads": 4, "head_dim": 10}
    narrow = Latent(q_rank=q_rank, kv_rank=12, d_turned=6, d_value=d_value)
    return ModelConfig(**sizes, stacks=uniform(2), max_length=64, latent=narrow)


@functools.cache
def weights(cfg: ModelConfig):
    return random_weights(transformer.specs(cfg))


def normed(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("q_rank", [7, None])
def test_one_layer_is_what_the_equations_say(width, q_rank):
    """In float64, from the paper: softmax((q_c . k_c + q_r . k_r) / sqrt(d_c + d_r)) v."""
    cfg = made(WIDTHS[width], q_rank)
    w = random_weights(latent.specs(cfg))
    x = jax.random.normal(jax.random.key(2), (1, 5, 32))
    positions = jnp.arange(5)[None]
    sin, cos = rope.angles(positions, rope.frequencies(6, 1e4)[None, None])
    angles, ones = {Layer().rope: RopeAngles(sin, cos, False)}, jnp.ones((1, 5), jnp.int32)
    inputs = LayerInputs(positions, jnp.full((1, 1), 5), None, ones, attend_uncached, angles)
    got, _ = latent.latent_attention(w, x, inputs, None, cfg, Layer())

    f = {name: None if leaf is None else np.asarray(leaf, np.float64) for name, leaf in vars(w).items()}
    y, s, o = np.asarray(x[0], np.float64), np.asarray(sin[0], np.float64), np.asarray(cos[0], np.float64)

    def turned(z):
        a, b = np.split(z, 2, -1)
        shape = (5,) + (1,) * (z.ndim - 2) + (3,)
        return np.concatenate(
            [a * o.reshape(shape) - b * s.reshape(shape), b * o.reshape(shape) + a * s.reshape(shape)], -1
        )

    narrow = y if q_rank is None else normed(y @ f["q_down"], f["q_norm"])
    q = np.einsum("TR,RNH->TNH", narrow, f["q"] if q_rank is None else f["q_up"])
    q = np.concatenate([q[..., :4], turned(q[..., 4:])], -1)
    down = y @ f["kv_down"]
    up = np.einsum("TR,RNH->TNH", normed(down[:, :12], f["kv_norm"]), f["kv_up"])
    shared = np.broadcast_to(turned(down[:, 12:])[:, None], (5, 4, 6))
    k, v = np.concatenate([up[..., :4], shared], -1), up[..., 4:]
    scores = np.einsum("TNH,SNH->NTS", q, k) / np.sqrt(10)
    p = np.exp(np.where(np.tril(np.ones((5, 5))) > 0, scores, -np.inf))
    want = np.einsum("NTS,SNV,NVD->TD", p / p.sum(-1, keepdims=True), v, f["o"])
    np.testing.assert_allclose(got[0], want, atol=1e-5)


@pytest.mark.by_turns
@pytest.mark.parametrize("width", WIDTHS)
def test_a_cache_and_every_implementation_give_the_same(width):
    cfg = made(WIDTHS[width])
    forward = jax.jit(transformer.forward, static_argnames=("cfg", "implementations"))
    want = forward(weights(cfg), TOKENS, cfg=cfg, implementations=Implementations(attention="reference"))[0]
    np.testing.assert_allclose(
        forward(weights(cfg), TOKENS, cfg=cfg, implementations=Implementations(attention="blockwise"))[0],
        want,
        atol=2e-5,
    )
    step = jax.jit(transformer.forward_cached, static_argnames=("cfg", "attend"))
    out, cache = step(weights(cfg), TOKENS[:, :8], cfg=cfg, cache=kv.init_cache(cfg, 2, 20), attend=attend_uncached)
    parts = [out]
    for begin, end in ((8, 12), (12, 13), (13, 20)):
        out, cache = step(weights(cfg), TOKENS[:, begin:end], cfg=cfg, cache=cache)
        parts.append(out)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), want, atol=2e-5)
    assert cache.stacks[0][0].v.shape[-1] == max(10, WIDTHS[width])
    assert cost.cache_bytes(cfg, 2, 20, 4) == sum(x.nbytes for x in (cache.stacks[0][0].k, cache.stacks[0][0].v))


@pytest.mark.parametrize("width", WIDTHS)
def test_each_width_is_written_and_read(width, tmp_path):
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "kv_lora_rank": 12}
    heads = {"num_attention_heads": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 6, "v_head_dim": WIDTHS[width]}
    cfg = config.model_config({"model_type": "deepseek_v3"} | sizes | heads, "")
    assert (cfg.head_dim, cfg.latent.d_value, cfg.d_cache) == (10, WIDTHS[width], max(10, WIDTHS[width]))
    export.write_configs(tmp_path, cfg, export.choose_family(cfg), GenerationConfig(), "float32")
    assert config.read_pretrained(tmp_path).model == cfg


def test_what_turns_is_a_part_of_the_head():
    with pytest.raises(ConfigError, match="latent.d_turned 12 is more than head_dim 10"):
        ModelConfig(
            **{k: v for k, v in vars(made(4)).items() if k != "latent"},
            latent=Latent(kv_rank=3, d_turned=12, d_value=4),
        )
