"""What a policy is: responses to problems, and how likely they are.

Training, Monte-Carlo values and evaluation take any `Policy`: a MADE on the
planted problem (`made_policy.MadePolicy`), or a language model that has been
given a problem (`for_problem.ProblemPolicy`). Parameters are never part of it.
"""

from typing import Any, Literal, Protocol, runtime_checkable

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from pav_jax.models.partitioning import Layout
from pav_jax.rollout import Rollout


@runtime_checkable
class Policy(Protocol):
  """Samples responses to the problems it was made for.

  A frozen, hashable dataclass without arrays, so that it may be a static
  argument of compiled functions.
  """

  @property
  def placement(self) -> Literal["device", "host"]:
    """Where `sample` runs.

    "device" is pure JAX and may be traced in jit, vmap and scan; "host" reads
    prompts from the problem's files, and then calls compiled programs.
    """
    ...

  @property
  def layout(self) -> Layout | None:
    """Where its arrays lie on a mesh; None to leave that to the compiler."""
    ...

  def on(self, layout: Layout | None) -> "Policy":
    """The same policy with its arrays elsewhere."""
    ...

  def shardings(self, layout: Layout) -> PyTree:
    """Where a layout has each of the parameters."""
    ...

  def sample(
    self,
    params: PyTree,
    key: jax.Array,
    problem_id: Int[ArrayLike, "D"],
    first_sample: Int[ArrayLike, "D"] | int = 0,
    *,
    num_samples: int = 1,
  ) -> Rollout:
    """Responses to problems, not graded.

    A response depends on the parameters, the key and its own two ids: not on
    the other rows, their order or padding.

    Args:
      params: the policy's.
      key: of the run.
      problem_id: of D problems; one that is there twice needs two ranges of
        samples.
      first_sample: each problem's samples are numbered from here.
      num_samples: N responses to each problem.

    Returns:
      D·N rows, ordered by problem and sample; outcomes are NaN.
    """
    ...

  def complete(
    self,
    params: PyTree,
    key: jax.Array,
    rollout: Rollout,
    *,
    num_samples: int,
    prefixes: Int[ArrayLike, "B Q"] | None = None,
  ) -> Rollout:
    """M completions of prefixes of each rollout, not graded.

    Args:
      params: the policy's.
      key: of the run; a completion's address is problem, sample, prefix and
        number.
      rollout: of B rows.
      num_samples: M.
      prefixes: indices in 0 … H; None for all.

    Returns:
      B·Q·M rows, ordered by rollout, prefix, completion.
    """
    ...

  def logp(self, params: PyTree, rollout: Rollout) -> Float[Array, "B T"]:
    """Log-probability of each response token, in nats; 0 elsewhere. Pure."""
    ...

  def has_ended(self, rollout: Rollout) -> Bool[ArrayLike, "B"]:
    """Which whole responses ended by themselves; pure.

    The others were cut off by the length limit, and are worth 0.
    """
    ...

  def value_network(self) -> Any:
    """A value function of prefixes that may start from the policy's parameters.

    It has `init(key, params)` and `values(params, rollout) -> [B, H]`, the
    value of the state before each step.
    """
    ...
