"""A trained verifier as prover and as outcome model, and its files.

A verifier's directory is a checkpoint of its trunk in Hugging Face's format,
with the weights of head and reader beside it, in `verifier.safetensors`.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.checks import check_finite, concrete_value
from pav_jax.models import adapters, beam_values, hf, partitioning, trimming
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.vocabulary import write_files
from pav_jax.provers import base
from pav_jax.rollout import Rollout

REST, _LAYERS = "verifier.safetensors", "reader_layers"


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["params"],
  meta_fields=["config", "layout"],
)
@dataclasses.dataclass(frozen=True)
class Verifier(base.FixedProver):
  """A prover `(key, rollout) -> q`, read from one pass over each trace.

  Search reads on behind a prefix cache (`base.HasPrefixCache`).

  Attributes:
    params: of the network, see `models.value_network`.
    config: of the network.
    layout: where activations lie on a mesh; None to leave that to the compiler.
  """

  params: Any
  config: VerifierConfig
  layout: Layout | None = dataclasses.field(default=None, repr=False)

  placement = "device"

  @property
  def networks(self) -> tuple[VerifierConfig, ...]:
    """Its one network, see `base.HasParams`."""
    return (self.config,)

  def with_params(self, params: PyTree, layout: Layout | None) -> "Verifier":
    """See `base.HasParams`."""
    return dataclasses.replace(self, params=params, layout=layout)

  def logits(self, rollout: Rollout) -> Float[Array, "B P"]:
    """Log-odds of success, in nats, of every prefix.

    Entries past the end of a response repeat the last one. Tokens are all that
    is read of the rollout, and where its prefixes end.

    Raises:
      ValueError: if rows are longer than the trunk's `max_length`, or a prefix
        is empty: the value of a bare problem is read at its last token.
    """
    given = concrete_value(rollout.prefix_len)
    if given is not None and (given < 1).any():
      raise ValueError(
        f"a prefix has {given.min()} tokens, expected at least 1: begin "
        "prompts with <bos>"
      )
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
    """q_hat[b, h] in [0, 1]; the key is not looked at."""
    del key
    return jax.nn.sigmoid(self.logits(rollout))

  def start_cache(
    self,
    prompts: Int[Array, "B S"],
    prompt_len: Int[Array, "B"],
    *,
    num_beams: int,
    length: int,
  ) -> tuple[PyTree, Float[Array, "B"]]:
    """See `base.HasPrefixCache`."""
    cache, logits = beam_values.start(
      self.config,
      self.params,
      prompts,
      prompt_len,
      num_beams=num_beams,
      length=length,
      layout=self.layout,
    )
    return cache, jax.nn.sigmoid(logits)

  def read_steps(
    self,
    cache: PyTree,
    tokens: Int[Array, "G C U"],
    count: Int[Array, "G C"],
    prefix_len: Int[Array, "G"],
  ) -> tuple[PyTree, Float[Array, "G C"]]:
    """See `base.HasPrefixCache`."""
    steps, logits = beam_values.read_steps(
      self.config,
      self.params,
      cache,
      tokens,
      count,
      prefix_len,
      layout=self.layout,
    )
    return steps, jax.nn.sigmoid(logits)

  keep_steps = staticmethod(beam_values.keep_steps)

  def outcome(self, rollout: Rollout) -> Float[Array, "B"]:
    """The probability that a whole response is correct: an outcome model.

    Read at the last scoring token.
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
  vocabulary: Any = None,
) -> None:
  """Writes a verifier's directory, which appears complete or not at all.

  Adapters are merged into their kernels. Of several processes all call, and the
  first one writes.

  Args:
    path: a directory; one that is there is replaced.
    config: of the network.
    params: of the network.
    identity: of vocabulary and delimiter, from `problems.vocabulary.identity`,
      or how texts are read too, from `problems.text_format.saved`.
    token_ids: as of `hf.save`.
    vocabulary: whose files are written beside it; None for none.

  Raises:
    ValueError, FloatingPointError: as of `hf.save`.
  """
  if jax.process_index() and not partitioning.is_split(params):
    return
  rest = {name: x for name, x in params.items() if name != "trunk"}
  check_finite("parameters", rest)
  tensors = {
    name: np.array(partitioning.to_host(x), np.float32, order="C")
    for name, x in _named(rest).items()
  }

  def write_rest(folder: pathlib.Path) -> None:
    layers = {_LAYERS: str(config.reader_layers)}
    safetensors.numpy.save_file(tensors, folder / REST, metadata=layers)
    if vocabulary is not None:
      write_files(vocabulary, folder)

  hf.save(
    path,
    *trimming.restore(*adapters.merge(config.trunk, params["trunk"])),
    token_ids=token_ids,
    identity=identity,
    replace=True,
    also=write_rest,
  )


def load(
  path: str | os.PathLike,
  *,
  fingerprint: str | None = None,
  layout: Layout | None = None,
  mesh: jax.sharding.Mesh | None = None,
  dtype: str | None = None,
  param_dtype: str | None = None,
) -> Verifier:
  """Reads a verifier.

  Args:
    path: a directory that `save` wrote.
    fingerprint: of the vocabulary and delimiter of the policy whose responses
      are to be scored, `problem.fingerprint`; None not to compare.
    layout: how to split it over devices; None for `mesh`, by its own rules.
    mesh: from `make_mesh`; None for one device.
    dtype: of computation, such as "bfloat16"; None for that of the parameters.
    param_dtype: of the backbone's parameters; None for what the files hold.

  Raises:
    ValueError: if the verifier was trained with another vocabulary or delimiter
      or does not say with which; or naming the field, tensor or file that is
      not as expected.
  """
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
  trunk_config, trunk = hf.load(
    path, layout=layout, dtype=dtype, param_dtype=param_dtype
  )
  number, tensors = _read(path / REST)
  config = VerifierConfig(trunk_config, number)
  shapes = network.shapes(config)
  del shapes["trunk"]
  rest = _checked(path / REST, tensors, shapes)
  if layout:
    where = network.shardings(config, layout)
    rest = partitioning.put(rest, {name: where[name] for name in rest})
  return Verifier({"trunk": trunk, **rest}, config, layout)


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
