"""Attention of texts to themselves by the kernels of the platform they run on.

Splash attention on TPUs, cuDNN's on GPUs: no logits in memory, forward or
backward. Both have a reverse derivative alone, so natural gradients, which need
products with the Jacobian, take the plain way. The plain way, which is
`attention.attend_causal`, is what they are tested against.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models.partitioning import Layout

# Lanes of a TPU's vector registers: lengths are filled up to a multiple.
_LANES = 128
# Tokens of a block of queries or keys, at most.
_BLOCK = 512


def platform(layout: Layout | None) -> str:
  """What attention runs on: "tpu", "gpu" or "cpu"."""
  if layout is None:
    return jax.default_backend()
  return layout.mesh.devices.flat[0].platform


def splash(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B T K H"],
  value: Float[Array, "B T K H"],
  segments: Int[Array, "B T"],
  *,
  window: int | None,
  scale: float,
  softcap: float | None,
  layout: Layout | None = None,
  interpret: bool = False,
) -> Float[Array, "B T N H"]:
  """`attention.attend_causal` by JAX's splash attention, for TPUs.

  Positions rise by one along each segment. On a mesh each device attends to its
  rows and heads.

  Args:
    query: rotated.
    key: rotated.
    value: not rotated.
    segments: equal for tokens that belong together, which lie side by side.
    window: see `attention.visible`.
    scale: see `attention.attend`.
    softcap: see `attention.attend`.
    layout: where arrays lie; None for one device.
    interpret: runs the kernel's operations on any device, slowly.
  """
  attend = functools.partial(
    _splash, window=window, softcap=softcap, interpret=interpret
  )
  query = query * jnp.asarray(scale, query.dtype)
  if layout is None:
    return attend(query, key, value, segments)
  rows, heads = (
    layout.spec(("sequences", "length", axis, "head_dim"))
    for axis in ("kv_heads", "heads")
  )
  return jax.shard_map(
    attend,
    mesh=layout.mesh,
    in_specs=(heads, rows, rows, layout.spec(("sequences", "length"))),
    out_specs=heads,
    check_vma=False,
  )(query, key, value, segments)


def _splash(query, key, value, segments, *, window, softcap, interpret):
  """`splash` on one device, of queries that are scaled."""
  # Pallas takes as long to import as all of JAX.
  from jax.experimental.pallas.ops.tpu import splash_attention

  length, num_heads = query.shape[1:3]
  padded = -(-length // _LANES) * _LANES
  rest = ((0, 0), (0, padded - length))
  # [B, T, N, H] to [B, N, T, H]; nobody sees what comes after a text.
  query, key, value = (
    jnp.pad(x, (*rest, (0, 0), (0, 0))).swapaxes(1, 2)
    for x in (query, key, value)
  )
  segments = jnp.pad(segments, rest, constant_values=-1)
  shape = (padded, padded)
  mask = (
    splash_attention.CausalMask(shape)
    if window is None
    else splash_attention.LocalMask(shape, (window - 1, 0), 0)
  )
  block = next(x for x in (_BLOCK, 256, _LANES) if padded % x == 0)
  sizes = splash_attention.BlockSizes(
    *(block,) * 3,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_kv_dkv_compute=block,
    use_fused_bwd_kernel=True,
  )
  kernel = splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([mask] * num_heads),
    block_sizes=sizes,
    attn_logits_soft_cap=softcap,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )

  def of_row(query, key, value, segments):
    ids = splash_attention.SegmentIds(segments, segments)
    return kernel(query, key, value, segment_ids=ids)

  out = jax.vmap(of_row)(query, key, value, segments)
  return out.swapaxes(1, 2)[:, :length]


def cudnn_allows(softcap: float | None, dtype: jnp.dtype) -> bool:
  """Whether cuDNN's attention computes the same, for texts one to a row."""
  return softcap is None and dtype in (jnp.bfloat16, jnp.float16)


def cudnn(
  query: Float[Array, "B T N H"],
  key: Float[Array, "B T K H"],
  value: Float[Array, "B T K H"],
  *,
  window: int | None,
  scale: float,
  implementation: str = "cudnn",
) -> Float[Array, "B T N H"]:
  """`attention.attend_causal` of texts one to a row by cuDNN, for GPUs.

  Args:
    query: rotated, in bfloat16 or float16.
    key: rotated.
    value: not rotated.
    window: see `attention.visible`.
    scale: see `attention.attend`.
    implementation: of `jax.nn.dot_product_attention`; "xla" runs everywhere.
  """
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    scale=scale,
    is_causal=True,
    local_window_size=None if window is None else (window - 1, 0),
    implementation=implementation,
  )
