"""Networks that runs use as they are: read from checkpoints, told apart."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from pav_jax import models
from pav_jax.files import describe
from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import KeptTokens
from pav_jax.policies.language_model import LanguageModel
from pav_jax.training.state import sha256


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A checkpoint: policy, parameters, and their digest."""

  policy: LanguageModel
  params: Any
  digest: str

  def identity(self) -> dict[str, Any]:
    """What its samples depend on, as JSON; fingerprints tell delimiters."""
    settings = {
      field.name: describe(getattr(self.policy, field.name))
      for field in dataclasses.fields(self.policy)
      if field.name not in ("is_delimiter", "layout")
    }
    return {"sha256": self.digest, **settings}


def layout_of(mesh: jax.sharding.Mesh | None) -> Layout | None:
  """How networks lie on a mesh.

  Args:
    mesh: of this process's devices; None for all of them on the data axis.

  Returns:
    A layout, or None for a single device.

  Raises:
    ValueError: if the mesh has devices of other processes.
  """
  if mesh is None:
    mesh = partitioning.make_mesh(local=True)
    return Layout(mesh) if mesh.size > 1 else None
  if set(mesh.devices.flat) - set(jax.local_devices()):
    raise ValueError(
      "mesh has devices of other processes, expected make_mesh.local = True: "
      "each process has networks of its own"
    )
  return Layout(mesh)


def load(
  path: str,
  *,
  problem: Any,
  make_policy: Callable[..., LanguageModel],
  layout: Layout | None,
  dtype: str | None = None,
  param_dtype: str | None = None,
  remat: str = "none",
  kept: KeptTokens | None = None,
) -> Loaded:
  """Reads a checkpoint that shares the problem's tokenizer and delimiter.

  Args:
    path: of its directory, or another source of `models.load`.
    problem: that the network answers.
    make_policy: `(config, problem) -> LanguageModel`.
    layout: where the network lies; None for a single device.
    dtype: of computation; None for that of the parameters.
    param_dtype: of parameters; None for the checkpoint's.
    remat: what gradients compute again, see `TransformerConfig`.
    kept: tokens that it may say, see `for_problem.used_tokens`; None for all.

  Raises:
    ValueError: if it is of another tokenizer or delimiter, or cannot be read.
  """
  model = models.load(
    path,
    fingerprint=problem.fingerprint,
    layout=layout,
    dtype=dtype,
    param_dtype=param_dtype,
    remat=remat,
    kept=kept,
  )
  policy = make_policy(model.config, problem)
  if layout is not None:
    policy = dataclasses.replace(policy, layout=layout)
  return Loaded(policy, model.params, sha256(model.params))


def check_alike(policy: LanguageModel, prover: LanguageModel) -> None:
  """Raises ValueError unless both end steps and responses alike."""
  for name in ("end_token", "max_new_tokens", "max_steps"):
    a, b = getattr(policy, name), getattr(prover, name)
    if a != b:
      raise ValueError(
        f"{name} is {a} for the policy and {b} for the prover, expected the "
        "same: they would end responses in different places"
      )
