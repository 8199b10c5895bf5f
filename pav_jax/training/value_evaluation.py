"""How good a verifier is on held-out traces, by step and within operations."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pav_jax import steps, thresholds, verification
from pav_jax.policies import sampling
from pav_jax.problems import base
from pav_jax.rollout import Rollout, StepTargets
from pav_jax.training.target_splits import rollout_of, take

# Steps with fewer prefixes are not counted when the worst step is named.
LEAST_PREFIXES = 100


@dataclasses.dataclass(frozen=True)
class References:
  """What held-out values are measured against, in numpy arrays.

  Attributes:
    targets: the traces.
    mask: prefixes that exist.
    middle: those after the second to third quarter of a trace's steps.
    q_mc: Monte-Carlo values, NaN where unknown.
    exact: exact values, or None.
    alive: prefixes without error so far, or None where the problem cannot say.
    kind: index into `kinds` of a prefix's last step, −1 for a step of no kind;
      None where the problem cannot say.
    kinds: names of kinds of steps, such as operations.
  """

  targets: StepTargets
  mask: Bool[np.ndarray, "B P"]
  middle: Bool[np.ndarray, "B P"]
  q_mc: Float[np.ndarray, "B P"]
  exact: Float[np.ndarray, "B P"] | None
  alive: Bool[np.ndarray, "B P"] | None
  kind: Int[np.ndarray, "B P"] | None
  kinds: tuple[str, ...]

  @property
  def first_error(self) -> Int[np.ndarray, "B"]:
    """0-based index of each trace's first wrong step, −1 for none."""
    dead = ~self.alive[:, 1:] & self.mask[:, 1:]
    return np.where(dead.any(-1), dead.argmax(-1), -1).astype(np.int32)


def references(
  problem: Any,
  targets: StepTargets,
  exact: Callable[[Rollout], Float[np.ndarray, "B P"]] | None = None,
) -> References:
  """Gathers what is known of held-out prefixes.

  Args:
    problem: that they answer; says which prefixes are dead, and of what kinds
      its steps are, if it can.
    targets: the traces.
    exact: `rollout -> values`, or None.
  """
  targets = jax.tree.map(np.asarray, targets)
  rollout = rollout_of(targets)
  mask = np.array(verification.prefix_mask(targets.prefix_len))
  at = np.arange(mask.shape[1])
  length = mask.sum(-1, keepdims=True) - 1
  dead = base.dead_prefixes(problem, rollout)
  kinds, kind = (), None
  if named := base.step_kinds(problem, rollout):
    kinds, of_step = named
    kind = np.pad(of_step, ((0, 0), (1, 0)), constant_values=-1)
    kind = np.where(mask & (kind >= 0), kind, -1).astype(np.int32)
  return References(
    targets=targets,
    mask=mask,
    middle=mask & (at >= length / 4) & (at <= 3 * length / 4),
    q_mc=np.asarray(targets.q_mc),
    exact=None if exact is None else np.asarray(exact(rollout)),
    alive=~dead if dead.any() else None,
    kind=kind,
    kinds=kinds,
  )


@jax.jit
def _logits(verifier: Any, rollout: Rollout):
  return verifier.logits(rollout)


def score(
  verifier: Any, targets: StepTargets, *, rows_per_call: int = 64
) -> Float[np.ndarray, "B P"]:
  """Logits of all prefixes.

  Args:
    verifier: a pytree with `logits(rollout)`, as `provers.verifier.Verifier`.
    targets: the traces.
    rows_per_call: traces scored at a time, at most; bounds memory.
  """
  number = len(targets.tokens)
  each = sampling.call_size(number, rows_per_call)
  parts = []
  for first in range(0, number, each):
    # The last call is filled up, so that all have one shape.
    rows = np.minimum(np.arange(first, first + each), number - 1)
    logits = _logits(verifier, rollout_of(take(targets, rows)))
    parts.append(np.asarray(logits)[: number - first])
  return np.concatenate(parts)


def measure(
  q_hat: Float[np.ndarray, "B P"], known: References
) -> dict[str, Any]:
  """All measures of a verifier's values, for a report.

  Of a reference, `by_step` has a number for each prefix, `middle` one for the
  prefixes in the middle of traces, and `all` one for all; None for what cannot
  be said. `outcome` has the AUC, calibration error and Brier score (`mse`);
  `monte_carlo` and `exact` have correlation, mean squared error and calibration
  error (ten bins of equal mass). `no_error` has the AUC of prefixes without
  error so far against others, `step_right` that of a right last step against a
  wrong one after a prefix without error; `within` an operation's kind, the kind
  being that of the last step.

  Args:
    q_hat: values in [0, 1].
    known: of the same traces.
  """
  targets = known.targets
  outcome = np.broadcast_to(targets.outcome[:, None], q_hat.shape)
  found: dict[str, Any] = {
    "traces": len(q_hat),
    "problems": len(np.unique(targets.problem_id)),
    "prefixes_by_step": known.mask.sum(0).tolist(),
    "outcome": _against(
      q_hat, outcome, known, np.isfinite(outcome), ("auc", "mse", "ece")
    ),
    "monte_carlo": _against(
      q_hat,
      known.q_mc,
      known,
      np.isfinite(known.q_mc),
      ("correlation", "mse", "ece"),
    ),
  }
  if known.exact is not None:
    found["exact"] = _against(
      q_hat,
      known.exact,
      known,
      np.isfinite(known.exact),
      ("correlation", "mse", "ece"),
    )
  if known.alive is not None:
    before = np.pad(known.alive[:, :-1], ((0, 0), (1, 0)))
    for name, where in (("no_error", known.mask), ("step_right", before)):
      found[name] = _against(q_hat, known.alive, known, where, ("auc",))
      if known.kind is not None:
        found[name]["within"] = _within(q_hat, known, where)
  return plain(found)


# Each compiled as one program: they are made of many small operations.
_compiled = functools.partial(jax.jit, static_argnames="axis")

_MEASURES = {
  "auc": _compiled(verification.auc),
  "correlation": _compiled(verification.correlation),
  "mse": _compiled(verification.mean_squared_error),
  "ece": _compiled(
    functools.partial(verification.expected_calibration_error, equal_mass=True)
  ),
}
_AUC_BY_GROUP = jax.jit(
  verification.auc_by_group, static_argnames=("num_groups", "axis")
)


def summary(
  q_hat: Float[np.ndarray, "B P"], known: References
) -> dict[str, float]:
  """What tells most about a verifier, of prefixes in the middle of traces.

  `auc_outcome`, `auc_no_error` (within the operation where it is least),
  `corr_mc` and `corr_exact`, see `measure`; `ece_mc` is of all prefixes. NaN
  for what cannot be said.

  Args:
    q_hat: values in [0, 1].
    known: of the same traces.
  """
  outcome = np.broadcast_to(known.targets.outcome[:, None], q_hat.shape)
  middle, mask = known.middle, known.mask

  def one(name, reference, where):
    where = where & np.isfinite(reference)
    reference = np.where(where, reference, 0)
    return float(_MEASURES[name](q_hat, reference, where, axis=None))

  found = {"auc_outcome": one("auc", outcome, middle)}
  if known.alive is not None:
    found["auc_no_error"] = (
      one("auc", known.alive, middle)
      if known.kind is None
      else _least(_by_kind(q_hat, known, middle, axis=None))
    )
  found["corr_mc"] = one("correlation", known.q_mc, middle)
  if known.exact is not None:
    found["corr_exact"] = one("correlation", known.exact, middle)
  return found | {"ece_mc": one("ece", known.q_mc, mask)}


def _against(q_hat, reference, known, where, names) -> dict[str, Any]:
  """Measures by step, in the middle and over all."""
  where = known.mask & where
  reference = np.where(where, reference, 0)
  counted = where.sum(0) >= LEAST_PREFIXES
  found = {}
  for name in names:
    function = _MEASURES[name]
    by_step = np.asarray(function(q_hat, reference, where, axis=0))
    found[name] = {
      "by_step": by_step,
      "middle": function(q_hat, reference, where & known.middle, axis=None),
      "all": function(q_hat, reference, where, axis=None),
    }
    if name == "ece":
      found[name]["worst_step"] = max(
        by_step[counted & np.isfinite(by_step)], default=math.nan
      )
  return found


def _by_kind(q_hat, known, where, axis: int | None) -> np.ndarray:
  """AUC for "no error so far" within each kind of operation."""
  return np.asarray(
    _AUC_BY_GROUP(
      q_hat,
      known.alive,
      known.kind,
      known.mask & where & (known.kind >= 0),
      num_groups=len(known.kinds),
      axis=axis,
    )
  )


def _least(aucs: np.ndarray) -> float:
  return float(np.nanmin(aucs)) if np.isfinite(aucs).any() else math.nan


def _within(q_hat, known, where) -> dict[str, Any]:
  """AUCs within each kind of operation, and the least of the middle ones."""
  middle = _by_kind(q_hat, known, where & known.middle, axis=None)
  by_step = _by_kind(q_hat, known, where, axis=0)
  return {
    "least_middle": _least(middle),
    "middle": dict(zip(known.kinds, middle, strict=True)),
    "by_step": dict(zip(known.kinds, by_step.T, strict=True)),
  }


def locate_first_errors(
  validation: tuple[Float[np.ndarray, "B P"], References],
  test: tuple[Float[np.ndarray, "C P2"], References],
) -> dict[str, Any]:
  """First-error localisation on traces whose dead prefixes are known.

  As in ProcessBench: the first step whose value is below a threshold, which is
  chosen on validation traces, is the predicted first error.

  Args:
    validation: values and references of the traces that the threshold is for.
    test: those that are reported on.
  """

  def parts(q_hat, known):
    mask = steps.step_mask(known.targets.prefix_len)
    return q_hat[:, 1:], np.asarray(mask), known.first_error

  return first_errors(parts(*validation), parts(*test))


def first_errors(
  validation: tuple[np.ndarray, np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> dict[str, Any]:
  """ProcessBench's scores, with the threshold from validation samples.

  Args:
    validation: scores [N, H], mask [N, H] of steps that exist, labels [N].
    test: the same three, of the samples that are reported on.

  Returns:
    `threshold`, `erroneous`, `correct` and `f1`, see
    `thresholds.FirstErrorScores`.
  """
  threshold = thresholds.first_error_threshold(*validation)
  scores, mask, labels = test
  predicted = thresholds.first_error(scores, mask, threshold=threshold)
  found = thresholds.first_error_scores(predicted, labels)
  return plain({"threshold": threshold, **found._asdict()})


def plain(tree: Any) -> Any:
  """As JSON has it: five digits, None for what is not finite."""
  if isinstance(tree, dict):
    return {name: plain(x) for name, x in tree.items()}
  if isinstance(tree, list | tuple):
    return [plain(x) for x in tree]
  if isinstance(tree, int | str | None):
    return tree
  array = np.asarray(tree)
  if array.ndim:
    return [plain(x) for x in array]
  value = float(array)
  return float(f"{value:.5g}") if math.isfinite(value) else None
