"""Arrays that have a shape, a type and a place on the mesh, and no content."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from pav_jax.models import partitioning, transformer
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.provers.verifier import Verifier
from pav_jax.rollout import Rollout


def bytes_per_device(tree: PyTree) -> int:
  """Bytes of a tree's arrays on the device that has most, without padding."""
  total = 0
  for x in jax.tree.leaves(tree):
    if not isinstance(x, jax.ShapeDtypeStruct):
      continue
    shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
    total += math.prod(shape) * x.dtype.itemsize
  return total


def place(shapes: PyTree, shardings: PyTree) -> PyTree:
  """The same shapes, lying where shardings say."""
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    shapes,
    shardings,
  )


def params_of(config: TransformerConfig, layout: Layout) -> dict:
  """The parameters of a transformer, split as `layout` says."""
  shapes = transformer.shapes(config)
  return place(shapes, transformer.shardings(config, layout))


def verifier_of(
  config: VerifierConfig, layout: Layout, dtype: str | None = None
) -> Verifier:
  """A verifier without weights, that computes in a type of its own."""
  if dtype:
    trunk = dataclasses.replace(config.trunk, dtype=dtype)
    config = dataclasses.replace(config, trunk=trunk)
  shapes = network.shapes(config)
  params = place(shapes, network.shardings(config, layout))
  return Verifier(params, config, layout)


def rollout_of(
  layout: Layout,
  num_rows: int,
  num_tokens: int,
  num_steps: int,
  *,
  split: bool = False,
) -> Rollout:
  """Rollouts without content; rows over the mesh if `split`.

  Rows that do not divide evenly are whole everywhere.
  """
  shards = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"]
  where = partitioning.replicated(layout.mesh)
  if split and num_rows % shards == 0:
    where = partitioning.over_batch(layout.mesh)

  def rows(dtype, *sizes):
    return jax.ShapeDtypeStruct((num_rows, *sizes), dtype, sharding=where)

  return Rollout(
    tokens=rows(jnp.int32, num_tokens),
    logp=rows(jnp.float32, num_tokens),
    prefix_len=rows(jnp.int32, num_steps + 1),
    outcome=rows(jnp.float32),
    problem_id=rows(jnp.int32),
    sample_id=rows(jnp.int32),
  )


def whole(
  layout: Layout, shape: tuple[int, ...], dtype: Any
) -> jax.ShapeDtypeStruct:
  """An array that every device has as a whole."""
  where = partitioning.replicated(layout.mesh)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def key(layout: Layout) -> jax.ShapeDtypeStruct:
  """A key of random numbers."""
  return whole(layout, (), jax.random.key(0).dtype)
