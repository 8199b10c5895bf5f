"""What of step targets a verifier learns, and how much each label counts."""

import dataclasses
import typing
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pav_jax import advantages, verification
from pav_jax.data import step_targets
from pav_jax.rollout import StepTargets

LABELS = ("monte_carlo", "outcome")
PREFIXES = ("all", "until_pit", "final")
LIKELIHOODS = ("mean", "binomial")
IMITATED = ("successful", "all")


@jax.tree_util.register_dataclass
@typing.no_type_check  # transformations unflatten it with leaves of any kind
@dataclasses.dataclass(frozen=True)
class Examples:
  """Traces with a soft label and a weight for each prefix: a frozen pytree.

  Attributes:
    tokens: the problem, then the response, then padding.
    prefix_len: as in `Rollout`.
    label: in [0, 1]; 0 where there is none.
    weight: >= 0, and 0 where there is no label. The mean over the rows of a
      whole data set of their sum is 1.
    imitated: steps that the backbone learns to write, if it has a next-token
      loss.
  """

  tokens: Int[Array, "*B T"]
  prefix_len: Int[Array, "*B P"]
  label: Float[Array, "*B P"]
  weight: Float[Array, "*B P"]
  imitated: Bool[Array, "*B P-1"]


@dataclasses.dataclass(frozen=True)
class Labelling:
  """Which labels there are, and how they are weighted (Sec. 4.2, App. D).

  Attributes:
    labels: "monte_carlo" for the fraction of completions that were correct;
      "outcome" for the trace's own outcome, a single completion of each of its
      prefixes.
    prefixes: "all"; "until_pit" to leave out those after the first pit of
      wrong traces, which are dead anyway; "final" for whole responses alone,
      with "outcome" an outcome model.
    likelihood: "mean" for a cross-entropy that counts every prefix once;
      "binomial" for the likelihood of c correct completions in n, which is the
      same cross-entropy n times, and so trusts labels by how well they are
      known.
    balanced: whether labels below 0.5 and those from 0.5 on have half of all
      weight each.
    imitated: "successful" for the steps after which some completion was
      correct, then or later; "all". What the trunk learns to expect decides
      what surprises it, see `models.verifier`.
    pit_high: value in (0, 1] that a trace must have reached before its pit.
      The lower, the more pits are due to chance.

  Raises:
    ValueError: if a setting is unknown or out of its range.
  """

  labels: str = "monte_carlo"
  prefixes: str = "all"
  likelihood: str = "mean"
  balanced: bool = True
  imitated: str = "successful"
  pit_high: float | int = 0.5

  def __post_init__(self):
    for name, known in (
      ("labels", LABELS),
      ("prefixes", PREFIXES),
      ("likelihood", LIKELIHOODS),
      ("imitated", IMITATED),
    ):
      if getattr(self, name) not in known:
        raise ValueError(
          f"{name} is {getattr(self, name)!r}, expected one of {known}"
        )
    if not 0 < self.pit_high <= 1:
      raise ValueError(
        f"pit_high is {self.pit_high}, expected a value in (0, 1]"
      )


def examples(targets: StepTargets, labelling: Labelling) -> Examples:
  """Labels and weights of a whole data set.

  Balancing weighs the labels of a bucket by the inverse of its share of the
  data set. So the mean of `Σ_h weight · loss` over uniformly drawn traces is,
  in expectation and exactly over an epoch, the mean over pairs drawn
  class-balanced, of which each bucket gives half; weights from the buckets of a
  batch would be right for large batches only. If one bucket is empty the other
  has all the weight.

  Args:
    targets: N traces. Entries past the end of a response, and prefixes of which
      nothing is known, get no weight.
    labelling: settings.

  Returns:
    Numpy arrays, N rows.

  Raises:
    ValueError: if no prefix has a label.
  """
  targets = jax.tree.map(np.asarray, targets)
  prefix_len = targets.prefix_len
  n = targets.num_completions.astype(np.float64)
  correct = targets.num_correct.astype(np.float64)
  where = np.asarray(verification.prefix_mask(prefix_len)) & (prefix_len > 0)
  if labelling.prefixes == "until_pit":
    where &= ~_after_pit(targets, labelling.pit_high)
  if labelling.prefixes == "final":
    where &= is_final(prefix_len)
  if labelling.labels == "outcome":
    outcome = targets.outcome[:, None].astype(np.float64)
    n = np.broadcast_to(np.isfinite(outcome), prefix_len.shape) * 1.0
    correct = np.where(n > 0, outcome, 0.0)
  where &= n > 0
  if not where.any():
    raise ValueError(
      f"none of {where.size} prefixes of {len(where)} traces has a label with "
      f"{labelling}"
    )
  label = np.where(where, correct / np.maximum(n, 1), 0.0)
  weight = np.where(where, n if labelling.likelihood == "binomial" else 1.0, 0)
  if labelling.balanced:
    for bucket in (label < 0.5, label >= 0.5):
      total = weight[bucket].sum()
      weight[bucket] /= total if total else 1.0
  weight *= len(weight) / weight.sum()
  return Examples(
    tokens=targets.tokens,
    prefix_len=prefix_len,
    label=label.astype(np.float32),
    weight=weight.astype(np.float32),
    imitated=_imitated(targets, labelling.imitated),
  )


def batches(
  examples: Examples, *, batch_size: int, seed: int
) -> Callable[[int], tuple[Examples, int]]:
  """Batches of a data set in random order, as `data.packing.Batches`.

  Args:
    examples: the data set.
    batch_size: traces in a batch.
    seed: of the order.

  Returns:
    A pure function of a position: the batch, and the position of the next.
  """

  def batch(position):
    rows = step_targets.batch_rows(
      len(examples.tokens), batch_size=batch_size, seed=seed, step=position
    )
    return jax.tree.map(lambda x: x[rows], examples), position + 1

  return batch


def _imitated(targets: StepTargets, which: str) -> np.ndarray:
  """Steps that exist, and whose prefix or a longer one has been completed."""
  exists = np.diff(targets.prefix_len) > 0
  if which == "all":
    return exists
  known = np.nan_to_num(targets.outcome)[:, None] > 0
  correct = (targets.num_correct > 0) | (known & is_final(targets.prefix_len))
  ever = np.logical_or.accumulate(correct[:, ::-1], axis=1)[:, ::-1]
  return exists & ever[:, 1:]


def is_final(prefix_len: Int[np.ndarray, "B P"]) -> np.ndarray:
  """Which entry is the whole response's: bool[B, P], one True in a row."""
  whole = prefix_len == prefix_len[:, -1:]
  return whole & (np.cumsum(whole, -1) == 1)


def _after_pit(targets: StepTargets, high: float) -> np.ndarray:
  """Prefixes after the one at which a wrong trace has its first pit."""
  n = targets.num_completions
  q = np.where(n > 0, targets.num_correct / np.maximum(n, 1), np.nan)
  pit = advantages.first_pit(q.astype(np.float32), targets.outcome, high=high)
  pit = np.asarray(pit)[:, None]
  return (pit >= 0) & (np.arange(n.shape[1]) > pit + 1)
