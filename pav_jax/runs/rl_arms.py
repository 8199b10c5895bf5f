"""Arms of reinforcement learning: what experiments bind besides them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from pav_jax.models.partitioning import Layout
from pav_jax.provers import verifier
from pav_jax.runs import networks
from pav_jax.training.language_arm import LanguageArm
from pav_jax.training.state import sha256


@dataclasses.dataclass(frozen=True)
class Candidates:
  """An arm whose settings are tuned on validation problems before it is run.

  Attributes:
    name: of the arm.
    arms: candidates, whose own names tell them apart.
  """

  name: str
  arms: Sequence[LanguageArm]


def fixed_verifier(
  path: str,
  problem: Any,
  *,
  k: float | int = 1,
  mesh: jax.sharding.Mesh | None = None,
) -> verifier.Verifier:
  """A trained verifier as prover, of the problem's vocabulary and delimiter.

  Args:
    path: of its directory, see `provers.verifier.load`.
    problem: has a `fingerprint`.
    k: of Best-of-K.
    mesh: over which it is split, like the policy that is trained; None for one
      device of each process.
  """
  return verifier.load(path, fingerprint=problem.fingerprint, k=k, mesh=mesh)


def grid(
  arm: LanguageArm,
  *,
  rates: Sequence[float],
  alphas: Sequence[float] | None = None,
  setting: str = "learning_rate",
) -> Candidates:
  """An arm at all combinations of learning rates and weights of progress.

  Args:
    arm: whose update has the setting.
    rates: learning rates of the update, or values of another setting.
    alphas: of the reward; None for the arm's own.
    setting: of the update; of a `NaturalGradient` "step_size" or, where its
      limit decides, "max_kl".

  Raises:
    ValueError: if the update has no such setting.
  """
  if not hasattr(arm.update, setting):
    raise ValueError(
      f"the update of {arm.name!r} is {arm.update}, which has no {setting}"
    )
  candidates = []
  for rate in rates:
    for alpha in alphas or (arm.reward.alpha,):
      update = dataclasses.replace(arm.update, **{setting: rate})
      reward = dataclasses.replace(arm.reward, alpha=alpha)
      name = f"rate{rate:g}_alpha{alpha:g}"
      candidates.append(
        dataclasses.replace(arm, name=name, update=update, reward=reward)
      )
  return Candidates(arm.name, candidates)


def placed(arm: LanguageArm, layout: Layout | None) -> LanguageArm:
  """The arm with its verifier on all devices of this process.

  Args:
    arm: whose verifier, if any, may be on one device.
    layout: of the training; where that is split the arm is given back as it is.
  """
  if layout is None or layout.splits_parameters:
    return arm
  prover = networks.copied(arm.reward.prover, layout.own)
  reward = dataclasses.replace(arm.reward, prover=prover)
  return dataclasses.replace(arm, reward=reward)


def described(arm: LanguageArm) -> str:
  """The arm for a checkpoint's configuration; a verifier by its digest."""
  reward = dataclasses.replace(arm.reward, prover=_described(arm.reward.prover))
  return repr(dataclasses.replace(arm, reward=reward))


def _described(prover: Any) -> Any:
  if hasattr(prover, "params"):
    return f"{type(prover).__name__} {sha256(prover.params)}"
  if dataclasses.is_dataclass(prover) and hasattr(prover, "prover"):
    return dataclasses.replace(prover, prover=_described(prover.prover))
  return prover
