"""The run that writes a page on which to look at traces and their values."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from pav_jax.data import step_targets
from pav_jax.provers import verifier as provers_verifier
from pav_jax.reporting import progress, trace_page
from pav_jax.rollout import Rollout, StepTargets
from pav_jax.runs import hosts
from pav_jax.runs.workdir import accept, exclusive
from pav_jax.training import value_evaluation as evaluation
from pav_jax.training.target_splits import rollout_of, take

# Logits of all prefixes of traces.
ScoreFn = Callable[[StepTargets], Float[np.ndarray, "B P"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectSettings:
  """Settings of `inspect_traces`.

  Attributes:
    problem: that the data is of.
    data: a directory of step targets.
    verifiers: name -> directory, see `provers.verifier`; may be empty.
    exact: exact values, `rollout -> [B, P]`, to be shown too.
    num_traces: most traces on the page.
    dtype: of verifiers' computation; None for that of their parameters.
    seed: of the choice of traces.
  """

  problem: Any
  data: str | os.PathLike
  verifiers: Mapping[str, str | os.PathLike]
  exact: Callable[[Rollout], Float[np.ndarray, "B P"]] | None = None
  num_traces: int = 50
  dtype: str | None = None
  seed: int = 0


@exclusive
def inspect_traces(
  workdir: str | os.PathLike, experiment: str, settings: InspectSettings
) -> pathlib.Path:
  """Writes `inspect.html`: traces coloured by the values of verifiers.

  Args:
    workdir: gets the page.
    experiment: its name, the page's title.
    settings: of the run.

  Returns:
    The page.

  Raises:
    ValueError: if data or a verifier is of another tokenizer or delimiter, or
      no trace has an outcome.
  """
  hosts.require_one_process("inspect_traces")
  fingerprint = settings.problem.fingerprint
  score_fns = {
    name: functools.partial(
      evaluation.score,
      provers_verifier.load(
        path, fingerprint=fingerprint, dtype=settings.dtype
      ),
    )
    for name, path in settings.verifiers.items()
  }
  targets = step_targets.load(settings.data, fingerprint=fingerprint)
  accept(workdir, experiment, {"run": "inspect_traces"})
  path = page(
    pathlib.Path(workdir) / "inspect.html",
    score_fns,
    settings.problem,
    targets,
    exact=settings.exact,
    num_traces=settings.num_traces,
    seed=settings.seed,
    title=experiment,
  )
  progress.say(f"wrote {path}")
  return path


def page(
  path: pathlib.Path,
  verifiers: Mapping[str, ScoreFn],
  problem: Any,
  targets: StepTargets,
  *,
  exact: Callable[[Rollout], Float[np.ndarray, "B P"]] | None,
  num_traces: int,
  seed: int = 0,
  title: str,
) -> pathlib.Path:
  """Writes the page of some of the traces, half of them correct if they can be.

  Shown are the values of verifiers, Monte-Carlo values, and exact ones; the
  first wrong step is marked where the problem knows it.

  Args:
    path: of the file.
    verifiers: logits of each, by name.
    problem: whose vocabulary writes tokens; see
      `value_evaluation.references`.
    targets: the traces.
    exact: see `InspectSettings`.
    num_traces: see `InspectSettings`.
    seed: see `InspectSettings`.
    title: of the page.

  Raises:
    ValueError: if no trace has a known outcome.
  """
  rows = choose(np.asarray(targets.outcome), num_traces, seed)
  targets = take(targets, rows)
  references = evaluation.references(problem, targets, exact)
  values = {
    name: scipy.special.expit(score_fn(targets))
    for name, score_fn in verifiers.items()
  }
  return trace_page.write_page(
    path,
    rollout_of(targets),
    functools.partial(token_text, problem.vocabulary),
    values | {"Monte Carlo": references.q_mc},
    title=title,
    exact=references.exact,
    pit=None if references.alive is None else references.first_error,
  )


def token_text(vocabulary: Any, token: int) -> str:
  """A token's text; policies may write ids that the vocabulary has not."""
  if 0 <= token < vocabulary.vocab_size:
    return vocabulary.token_text(token)
  return f"<{token}>"


def choose(
  outcome: Float[np.ndarray, "B"], number: int, seed: int = 0
) -> Int[np.ndarray, "N"]:
  """Rows of random traces, half of them correct if there are enough.

  Args:
    outcome: 1, 0, or NaN for traces that are not chosen.
    number: most rows.
    seed: of the choice.

  Raises:
    ValueError: if `number` is not positive, or no outcome is known.
  """
  if number < 1:
    raise ValueError(f"num_traces is {number}, expected at least 1")
  order = np.random.default_rng(seed).permutation(len(outcome))
  correct, wrong = (order[outcome[order] == kind] for kind in (1, 0))
  if not len(correct) + len(wrong):
    raise ValueError(
      f"none of {len(outcome)} traces has an outcome of 0 or 1 to show"
    )
  half = max(number // 2, number - len(wrong))
  correct = correct[:half]
  return np.sort(np.concatenate([correct, wrong[: number - len(correct)]]))
