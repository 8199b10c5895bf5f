"""Low-rank adapters: little that is trained, beside much that is not.

The parameters of a network whose configuration has `Lora` are those of the base
and two small arrays for each kernel that has an adapter. `split` takes them
apart, so that gradients, optimisers and checkpoints have the adapters alone,
and `join` puts them together; both are free, in traced code too. A policy, its
value function and a verifier may be adapters of one base that way. `merge`
gives a network without adapters that computes the same.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from pav_jax.models import layers, transformer
from pav_jax.models.layers import LORA_A, LORA_B
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import Lora, TransformerConfig


def _ends(path: tuple, endings: tuple[str, ...]) -> bool:
  name = path[-1] if path else None
  return str(getattr(name, "key", name)).endswith(endings)


def split(params: PyTree) -> tuple[PyTree, PyTree]:
  """What is trained of parameters, and the base, which is not.

  Where there are adapters they are trained. Where there are none, everything is
  but the rows of all tokens that `trimming` sets aside; without those either
  the base is {}.

  Args:
    params: of a policy, or anything shaped like them.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for ending in ((LORA_A, LORA_B), (transformer.WHOLE,)):
    if any(_ends(path, ending) for path, _ in leaves):
      break
  else:
    return params, {}
  trained, base = {}, {}
  for path, leaf in flatten_dict(params).items():
    is_trained = _ends(path, ending) == (LORA_A in ending)
    (trained if is_trained else base)[path] = leaf
  return unflatten_dict(trained), unflatten_dict(base)


def join(trained: PyTree, base: PyTree) -> PyTree:
  """The inverse of `split`."""
  if not base:
    return trained
  return unflatten_dict(flatten_dict(base) | flatten_dict(trained))


def add(
  config: TransformerConfig,
  base: dict,
  lora: Lora,
  key: jax.Array,
  *,
  layout: Layout | None = None,
) -> tuple[TransformerConfig, dict]:
  """Adapters for a network that has none; at first they change nothing.

  Args:
    config: of the network.
    base: its parameters, which the result shares.
    lora: which adapters.
    key: of the random ones, A.
    layout: where the parameters lie; None for one device.
  """
  config = dataclasses.replace(config, lora=lora)
  where = layout and split(transformer.shardings(config, layout))[0]
  init = jax.jit(
    lambda key: split(transformer.init(config, key))[0], out_shardings=where
  )
  return config, join(init(key), base)


def merge(
  config: TransformerConfig, params: dict
) -> tuple[TransformerConfig, dict]:
  """The network with its adapters added to their kernels.

  Sums are made in float32 and rounded to the type of the kernels.

  Args:
    config: of the network; one without adapters comes back as it is.
    params: its parameters.
  """
  lora = config.lora
  if lora is None:
    return config, params

  def merged(layer):
    flat = flatten_dict(layer)
    for path in [path for path in flat if path[-1].endswith(LORA_A)]:
      kernel = (*path[:-1], path[-1].removesuffix(LORA_A))
      into = flat.pop(path)
      back = flat.pop((*kernel[:-1], kernel[-1] + LORA_B))
      change = lora.scale * jnp.tensordot(into, back, axes=1)
      plain = flat[kernel]
      flat[kernel] = (plain.astype(jnp.float32) + change).astype(plain.dtype)
    return unflatten_dict(flat)

  stacks = params["layers"]
  where = jax.tree.map(lambda x: x.sharding, split(stacks)[1])
  fold = jax.jit(
    lambda stacks: layers.map_layers(merged, stacks), out_shardings=where
  )
  return (
    dataclasses.replace(config, lora=None),
    params | {"layers": fold(stacks)},
  )
