"""Arms of reinforcement learning: what experiments bind besides them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from pav_jax.files import describe
from pav_jax.provers import base as provers
from pav_jax.provers import verifier
from pav_jax.training.rl import Arm
from pav_jax.training.state import sha256


@dataclasses.dataclass(frozen=True)
class Candidates:
  """An arm whose settings are tuned on validation problems before it is run.

  Attributes:
    name: of the arm.
    arms: candidates, whose own names tell them apart.

  Raises:
    ValueError: if there is none, or two have one name.
  """

  name: str
  arms: Sequence[Arm]

  def __post_init__(self):
    names = [arm.name for arm in self.arms]
    if not names or len(set(names)) < len(names):
      raise ValueError(
        f"candidates of {self.name} are named {names}, expected one or more "
        "different names"
      )


def all_arms(arms: Sequence[Arm | Candidates]) -> list[Arm]:
  """Arms, and candidates one by one."""
  return [
    one
    for arm in arms
    for one in (arm.arms if isinstance(arm, Candidates) else (arm,))
  ]


def fixed_verifier(
  path: str,
  problem: Any,
  *,
  mesh: jax.sharding.Mesh | None = None,
  dtype: str | None = None,
  param_dtype: str | None = None,
) -> verifier.Verifier:
  """A trained verifier as prover, of the problem's tokenizer and delimiter.

  Args:
    path: of its directory, see `provers.verifier.load`.
    problem: has a `fingerprint`.
    mesh: over which it is split, like the policy that is trained; None for one
      device of each process.
    dtype: of computation; None for that of the parameters.
    param_dtype: of parameters; None for what the files hold.
  """
  return verifier.load(
    path,
    fingerprint=problem.fingerprint,
    mesh=mesh,
    dtype=dtype,
    param_dtype=param_dtype,
  )


def grid(
  arm: Arm,
  *,
  rates: Sequence[float],
  alphas: Sequence[float] | None = None,
  setting: str = "learning_rate",
) -> Candidates:
  """An arm at all combinations of learning rates and weights of progress.

  Args:
    arm: whose update has the setting, and whose credit centres an
      `EffectiveReward`.
    rates: learning rates of the update, or values of another setting.
    alphas: of the reward; None for the arm's own.
    setting: of the update; of a `NaturalGradient` "step_size" or, where its
      limit decides, "max_kl".

  Raises:
    ValueError: if the update has no such setting.
  """
  names = [field.name for field in dataclasses.fields(arm.update)]
  if setting not in names:
    raise ValueError(
      f"the update of {arm.name!r} is {arm.update}, which has no {setting}"
    )
  reward = arm.credit.reward
  candidates = []
  for rate in rates:
    for alpha in alphas or (reward.alpha,):
      update = dataclasses.replace(arm.update, **{setting: rate})
      of_alpha = dataclasses.replace(reward, alpha=alpha)
      candidates.append(
        dataclasses.replace(
          arm,
          name=f"rate{rate:g}_alpha{alpha:g}",
          update=update,
          credit=dataclasses.replace(arm.credit, reward=of_alpha),
        )
      )
  return Candidates(arm.name, candidates)


def described(arm: Arm) -> str:
  """The arm for a checkpoint's configuration; a verifier by its digest."""
  if arm.prover is None:
    return describe(arm)
  prover = provers.described(arm.prover, sha256)
  return f"{describe(dataclasses.replace(arm, prover=None))} with {prover}"
