"""Norms and rotary positions against float64 formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.ops import norms, rope

X = np.random.default_rng(0).normal(size=(2, 3, 8))
SCALE, BIAS = np.random.default_rng(1).normal(size=8), np.random.default_rng(2).normal(size=8)


def f32(x):
    return jnp.asarray(x, jnp.float32)


def test_rms_norm():
    plain = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(norms.rms_norm(f32(X), f32(SCALE), eps=1e-3), plain * SCALE, atol=1e-5)
    np.testing.assert_allclose(norms.rms_norm(f32(X), f32(SCALE), eps=1e-3, offset=1), plain * (1 + SCALE), atol=1e-5)
    np.testing.assert_allclose(norms.rms_norm(f32(X), None, eps=1e-3), plain, atol=1e-5)


def test_layer_norm():
    plain = (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(
        norms.layer_norm(f32(X), f32(SCALE), f32(BIAS), eps=1e-3), plain * SCALE + BIAS, atol=1e-5
    )
    np.testing.assert_allclose(norms.layer_norm(f32(X), None, eps=1e-3), plain, atol=1e-5)


def test_norms_compute_in_float32_and_return_the_input_dtype():
    big = jnp.full((1, 4), 300.0, jnp.float16)  # its square overflows float16
    out = norms.rms_norm(big, jnp.ones(4), eps=1e-6)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(out, np.float32), 1.0, rtol=1e-3)


def rotated(x, position, freq):
    """Each pair (i, i + R) turned as a complex number."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * position * freq)
    return np.concatenate([z.real, z.imag], -1)


def test_rotation_turns_pairs_by_position():
    freq = rope.frequencies(8, 100.0)
    np.testing.assert_allclose(freq, 100.0 ** -(np.arange(4) / 4), rtol=1e-6)
    x, positions = np.random.default_rng(3).normal(size=(1, 5, 2, 8)), np.array([[0, 1, 5, 2, 900]])
    got = rope.rotate(f32(x), *rope.angles(jnp.asarray(positions), freq[None, None]))
    want = np.stack([rotated(x[0, t], positions[0, t], freq.astype(np.float64)) for t in range(5)])[None]
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_scores_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    freq = rope.frequencies(16, 1e4)

    def turn(x, position):
        return rope.rotate(x, *rope.angles(jnp.array([[position]]), freq[None, None]))

    def score(i, j):
        return float(jnp.sum(turn(q, i) * turn(k, j)))

    assert abs(score(7, 3) - score(104, 100)) < 1e-4 < abs(score(7, 3) - score(7, 5))


def test_scalings():
    freq = rope.frequencies(64, 5e5)
    np.testing.assert_allclose(rope.linear(freq, 8.0), freq / 8, rtol=1e-6)
    scaled = rope.llama3(freq, 8.0, 1.0, 4.0, 8192)
    wavelength = 2 * math.pi / freq.astype(np.float64)
    np.testing.assert_allclose(scaled[wavelength < 8192 / 4], freq[wavelength < 8192 / 4], rtol=1e-6)
    np.testing.assert_allclose(scaled[wavelength > 8192], freq[wavelength > 8192] / 8, rtol=1e-6)
    middle = (wavelength > 8192 / 4) & (wavelength < 8192)
    blend = (8192 / wavelength[middle] - 1) / 3
    np.testing.assert_allclose(scaled[middle], ((1 - blend) / 8 + blend) * freq[middle], rtol=1e-5)


def test_longrope_has_two_lists_and_the_length_of_a_text_chooses():
    freq, short, long = rope.frequencies(6, 500.0), (1.0, 1.5, 2.0), (2.0, 3.0, 5.0)
    found = rope.longrope(freq, short, long, 8, jnp.array([[8, 9, 1], [100, 8, 7]]))
    want = [[short, long, short], [long, short, short]]
    np.testing.assert_allclose(found, freq / np.asarray(want), rtol=1e-6)


def test_dynamic_scaling_grows_theta_past_the_original_length():
    dim, theta, factor, original = 16, 500.0, 4.0, 8
    freq = rope.frequencies(dim, theta)
    found = np.asarray(rope.dynamic(freq, factor, original, jnp.array([[3, 8, 9, 30]])))
    np.testing.assert_array_equal(found[0, :2], np.stack([freq, freq]))  # not even rounding differs
    for place, length in ((2, 9), (3, 30)):
        grown = theta * (factor * length / original - (factor - 1)) ** (dim / (dim - 2))
        np.testing.assert_allclose(found[0, place], grown ** -(np.arange(0, dim, 2) / dim), rtol=1e-5)
