"""A trained verifier as prover and as outcome model, and its files.

A verifier's directory is a checkpoint of its trunk in Hugging Face's format,
with the weights of head and reader beside it, in `verifier.safetensors`.
"""

import dataclasses
import functools
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float

from pav_jax import values
from pav_jax.checks import Leaf
from pav_jax.models import hf, partitioning
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.value_network import VerifierConfig
from pav_jax.rollout import Rollout

REST, _LAYERS = "verifier.safetensors", "reader_layers"


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["params", "k"],
  meta_fields=["config", "layout"],
)
@dataclasses.dataclass(frozen=True)
class Verifier:
  """A prover `(key, rollout) -> q`, read from one pass over each trace.

  Attributes:
    params: of the network, see `models.verifier`.
    config: of the network.
    k: float or float32[], at least 1; the values are those of Best-of-K of the
      policy whose values the verifier predicts (Eq. 30).
    layout: where activations lie on a mesh; None to leave that to the compiler.
  """

  params: Any
  config: VerifierConfig
  k: Leaf = 1
  layout: Layout | None = None

  def logits(self, rollout: Rollout) -> Float[Array, "B P"]:
    """Log-odds of success of one sample, in nats, of every prefix.

    Entries past the end of a response repeat the last one. Tokens are all that
    is read of the rollout, and where its prefixes end.

    Raises:
      ValueError: if rows are longer than the trunk's `max_length`.
    """
    at = jnp.maximum(jnp.asarray(rollout.prefix_len) - 1, 0)
    logits = network.values(
      self.config,
      self.params,
      jnp.asarray(rollout.tokens),
      at,
      layout=self.layout,
    )
    return partitioning.constrain(self.layout, logits)

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[Array, "B P"]:
    """q_hat[b, h] in [0, 1], of Best-of-K; `key` has no part in it."""
    del key
    return values.best_of_k_from_logit(self.logits(rollout), self.k)

  def outcome(self, rollout: Rollout) -> Float[Array, "B"]:
    """The probability that a whole response is correct: an outcome model.

    Read at the last scoring token, whatever K: Best-of-K has no samples left to
    choose from there.
    """
    last = dataclasses.replace(
      rollout, prefix_len=jnp.asarray(rollout.prefix_len)[:, -1:]
    )
    return jax.nn.sigmoid(self.logits(last))[:, 0]


def save(
  path: str | os.PathLike,
  config: VerifierConfig,
  params: dict,
  *,
  identity: Mapping[str, Any],
  token_ids: Mapping[str, int] | None = None,
) -> None:
  """Writes a verifier's directory, which appears complete or not at all.

  Of several processes all call, and the first one writes.

  Args:
    path: a directory; one that is there is replaced.
    config: of the network.
    params: of the network.
    identity: of vocabulary and delimiter, from `problems.vocabulary.identity`.
    token_ids: as of `hf.save`.

  Raises:
    ValueError: as of `hf.save`.
  """
  writes = jax.process_index() == 0
  if not writes and not partitioning.is_split(params):
    return
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}")
  if writes:
    shutil.rmtree(partial, ignore_errors=True)
  hf.save(
    partial,
    config.trunk,
    params["trunk"],
    token_ids=token_ids,
    identity=identity,
  )
  rest = {name: x for name, x in params.items() if name != "trunk"}
  tensors = {
    name: np.array(partitioning.to_host(x), np.float32, order="C")
    for name, x in _named(rest).items()
  }
  if not writes:
    return
  safetensors.numpy.save_file(
    tensors,
    partial / REST,
    metadata={_LAYERS: str(config.reader_layers)},
  )
  shutil.rmtree(path, ignore_errors=True)
  partial.rename(path)


def load(
  path: str | os.PathLike,
  *,
  fingerprint: str | None = None,
  k: float | int = 1,
  layout: Layout | None = None,
  mesh: jax.sharding.Mesh | None = None,
  dtype: str | None = None,
) -> Verifier:
  """Reads a verifier.

  Args:
    path: a directory that `save` wrote.
    fingerprint: of the vocabulary and delimiter of the policy whose responses
      are to be scored, `problem.fingerprint`; None not to compare.
    k: see `Verifier`.
    layout: how to split it over devices; None for `mesh`, by its own rules.
    mesh: from `make_mesh`; None for one device.
    dtype: of computation; None for that of the parameters.

  Raises:
    ValueError: if the verifier was trained with another vocabulary or delimiter
      or does not say with which; or naming the field, tensor or file that is
      not as expected.
  """
  values.check_k(k)
  if layout is None and mesh is not None:
    layout = Layout(mesh)
  path = pathlib.Path(path)
  if not (path / REST).exists():
    raise ValueError(f"{path} has no {REST}, so it is no verifier's directory")
  if fingerprint is not None and not hf.check_fingerprint(path, fingerprint):
    raise ValueError(
      f"{path} does not say of which vocabulary and delimiter it is, expected "
      f"fingerprint {fingerprint}"
    )
  trunk_config, trunk = hf.load(path, layout=layout, dtype=dtype)
  number, tensors = _read(path / REST)
  config = VerifierConfig(trunk_config, number)
  shapes = network.shapes(config)
  del shapes["trunk"]
  rest = _checked(path / REST, tensors, shapes)
  if layout:
    where = network.shardings(config, layout)
    rest = partitioning.put(rest, {name: where[name] for name in rest})
  return Verifier({"trunk": trunk, **rest}, config, k, layout)


def _named(tree: Any) -> dict[str, Any]:
  """Leaves by their path, `reader.layers.local.mlp.up`."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {".".join(key.key for key in path): leaf for path, leaf in leaves}


def _read(file: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
  """How many layers the reader has, and all tensors."""
  try:
    with safetensors.safe_open(file, "numpy") as opened:
      number = (opened.metadata() or {}).get(_LAYERS, "")
      tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"{file} cannot be read: {error}") from error
  if not number.isdigit():
    raise ValueError(
      f"{file} has {_LAYERS} {number!r} among its metadata, expected a number"
    )
  return int(number), tensors


def _checked(
  file: pathlib.Path, tensors: Mapping[str, np.ndarray], shapes: Any
) -> dict:
  """The tensors as a tree like `shapes`."""
  expected = _named(shapes)
  for name in sorted(expected.keys() | tensors.keys()):
    if name not in tensors:
      raise ValueError(f"tensor {name} is missing in {file}")
    if name not in expected:
      raise ValueError(f"tensor {name} in {file} is not one of this verifier's")
    if tensors[name].shape != expected[name].shape:
      raise ValueError(
        f"tensor {name} in {file} has shape {tensors[name].shape}, expected "
        f"{expected[name].shape}"
      )
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.asarray(
      tensors[".".join(key.key for key in path)], x.dtype
    ),
    shapes,
  )
