"""JAX's splash attention kernel for TPU, behind the signature of the others. It knows no platform and no mesh.

Source: jax.experimental.pallas.ops.tpu.splash_attention, a FlashAttention whose grid skips masked blocks. Here one
kernel serves the G query heads of a kv head, and is mapped over kv heads and rows.

B batch, T positions, N = K * G query heads, K kv heads, H head_dim.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as kernels

from vishwamai.ops.masks import EMPTY, MaskInputs, MaskRule

Array = jax.Array

LANES = 128  # the kernel's lengths are multiples of this
BLOCKS = (512, 256, LANES)  # positions per block, the fastest first; larger ones do not fit the chip's fast memory


def splash(
    rule: MaskRule,
    q_BTNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    places: MaskInputs,
    sinks_N: Array | None,
    *,
    interpret: bool = False,
) -> Array:
    """Attention of whole rows, `[B, T, N, H]` in `q`'s dtype; softmax in float32, sinks in `q`'s dtype.

    Any T: it is filled up to a multiple of the block. Segment ids must not be negative. `interpret` runs it without a
    TPU, for tests. Where `attention.why_no_splash` gives a reason, it must not be called.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    block = block_size(T)
    pad = -T % block
    scaled = (q_BTNH.astype(jnp.float32) * rule.scale).astype(q_BTNH.dtype)
    q = _pad_length(scaled, pad).reshape(B, T + pad, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k, v = (_pad_length(x, pad).swapaxes(1, 2) for x in (k_BTKH, v_BTKH))
    kernel = _kernel(rule, N // K, T + pad, block, interpret)
    sinks = None if sinks_N is None else sinks_N.astype(q.dtype).reshape(K, N // K)
    heads = jax.vmap(kernel, (0, 0, 0, None, None if sinks is None else 0))
    rows = jax.vmap(heads, (0, 0, 0, 0, None))
    out = rows(q, k, v, _segments(rule, places, B, T, pad), sinks)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, T + pad, N, H)[:, :T]


def block_size(length: int) -> int:
    """The largest block that fills rows of this length with at most an eighth of padding."""
    fit = (b for b in BLOCKS if -length % b <= length // 8)
    return next(fit, LANES)


@dataclasses.dataclass(frozen=True)
class _Band:
    """Which differences between a query's and a key's position are seen: called in the kernel, on blocks of both.

    At least one side is bounded: it is causal, or there is a window.
    """

    causal: bool
    window: int | None

    def __call__(self, q, kv):
        if self.window is None:
            return q >= kv
        near = q - kv < self.window
        return near & (q >= kv) if self.causal else near

    def span(self, least: int, most: int) -> tuple[bool, bool]:
        """Whether all, and whether any, of the differences from `least` to `most` are seen."""
        low, high = 0 if self.causal else least, most if self.window is None else self.window - 1
        return low <= least and most <= high, low <= most and least <= high


class _Mask(kernels.Mask):
    """What the kernel is told of a band when it is built: of each block, whether all and whether any of it is seen.

    JAX's own masks compute every entry of every block to learn the same, 17 s of them at 32,768 positions.
    """

    def __init__(self, band: _Band, shape: tuple[int, int]):
        self.mask_function, self._shape = band, shape
        self.q_sequence = np.arange(shape[0], dtype=np.int32)

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
        q, kv = block
        return np.array([self.mask_function.span(q.start - kv.stop + 1, q.stop - 1 - kv.start)])

    def __eq__(self, other) -> bool:
        return isinstance(other, _Mask) and (self.mask_function, self.shape) == (other.mask_function, other.shape)

    def __hash__(self) -> int:
        return hash((self.mask_function, self.shape))


def _kernel(rule: MaskRule, heads: int, length: int, block: int, interpret: bool):
    shape, everything = (length, length), not rule.causal and rule.window is None
    mask = kernels.FullMask(shape) if everything else _Mask(_Band(rule.causal, rule.window), shape)
    sizes = kernels.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    return kernels.make_splash_mqa_single_device(
        kernels.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        attn_logits_soft_cap=rule.softcap,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )


def _pad_length(x: Array, pad: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0)))


def _segments(rule: MaskRule, places: MaskInputs, batch: int, length: int, pad: int):
    """The rows' segments; a causal row hides its own padding, any other needs it in a segment apart."""
    ids = places.q_segments
    if ids is None and (rule.causal or not pad):
        return None
    ids = jnp.zeros((batch, length), jnp.int32) if ids is None else ids
    ids = jnp.pad(ids, ((0, 0), (0, pad)), constant_values=EMPTY)
    return kernels.SegmentIds(ids, ids)
