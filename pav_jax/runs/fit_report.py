"""What a run that trains a verifier says of it: numbers, figures, a page."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float

from pav_jax import steps
from pav_jax.data import process_bench as process_bench_files
from pav_jax.reporting import progress
from pav_jax.rollout import Rollout, StepTargets
from pav_jax.runs.labelled_data import LabelledData
from pav_jax.runs.show_traces import ScoreFn, page
from pav_jax.training import value_evaluation as evaluation
from pav_jax.training.labelling import Examples
from pav_jax.training.value_evaluation import References


def validation(
  logit: Float[np.ndarray, "B P"], examples: Examples, references: References
) -> dict[str, float]:
  """The loss on held-out traces, and what tells most about a verifier.

  Args:
    logit: of the prefixes.
    examples: labels and weights of the same traces.
    references: of the same traces.
  """
  entropy = np.logaddexp(0, logit) - examples.label * logit
  total = np.sum(examples.weight * entropy, dtype=np.float64)
  measures = evaluation.summary(scipy.special.expit(logit), references)
  return {"loss": float(total / len(logit))} | measures


def test(
  workdir: pathlib.Path,
  score_fn: ScoreFn,
  problem: Any,
  data: LabelledData,
  *,
  exact: Callable[[Rollout], Float[np.ndarray, "B P"]] | None,
  scaling: tuple[float, float] | None,
  process_bench: Sequence[str | os.PathLike],
  num_inspected: int,
  title: str,
) -> tuple[dict[str, Any], dict[str, Any], list[pathlib.Path]]:
  """Tests a verifier, and writes figures and the page.

  Args:
    workdir: gets the files.
    score_fn: logits of the verifier that is kept.
    problem: of the traces.
    data: whose validation part gives the threshold of first errors, and whose
      test part everything else.
    exact: exact values, or None.
    scaling: scale and offset that its head has got, or None.
    process_bench: files, see `fit_verifier`.
    num_inspected: test traces on the page.
    title: of figures and page.

  Returns:
    Measures for the report, more for it, and what was written.
  """
  validation = evaluation.references(problem, data.validation, exact)
  references = evaluation.references(problem, data.test, exact)
  logit = score_fn(references.targets)
  q_hat = scipy.special.expit(logit)
  tested = evaluation.measure(q_hat, references)
  if references.alive is not None:
    q_validation = scipy.special.expit(score_fn(validation.targets))
    tested["first_error"] = evaluation.locate_first_errors(
      (q_validation, validation), (q_hat, references)
    )
  if process_bench:
    tested["process_bench"] = process_bench_scores(
      score_fn, problem, process_bench
    )
  more = {}
  if scaling is not None:
    scale, offset = scaling
    before = evaluation.measure(
      scipy.special.expit((logit - offset) / scale), references
    )
    more["calibration"] = evaluation.plain(
      {
        "scale": scale,
        "offset": offset,
        "ece_before": before["monte_carlo"]["ece"],
      }
    )
  written = _figures(workdir, q_hat, references, tested, title)
  written.append(
    page(
      workdir / "inspect.html",
      {"verifier": score_fn},
      problem,
      references.targets,
      exact=exact,
      num_traces=num_inspected,
      title=title,
    )
  )
  show(title, tested)
  return tested, more, written


def process_bench_scores(
  score_fn: ScoreFn, problem: Any, files: Sequence[str | os.PathLike]
) -> dict[str, Any]:
  """First-error scores on files in ProcessBench's format.

  Args:
    score_fn: logits of a verifier.
    problem: of the verifier's policy; its prompts have the samples' problems.
    files: one to choose the threshold on, and one to report on.

  Raises:
    ValueError: as of `process_bench.read`.
  """
  parts = []
  for file in files:
    samples = process_bench_files.read(file)
    rollout = process_bench_files.rollout(samples, problem)
    logit = score_fn(_unlabelled(rollout))
    mask = np.asarray(steps.step_mask(rollout.prefix_len))
    labels = np.array([sample.label for sample in samples], np.int32)
    parts.append((scipy.special.expit(logit)[:, 1:], mask, labels))
  return evaluation.first_errors(*parts)


def _unlabelled(rollout: Rollout) -> StepTargets:
  zeros = np.zeros(rollout.prefix_len.shape, np.int32)
  return StepTargets(
    tokens=rollout.tokens,
    prefix_len=rollout.prefix_len,
    num_completions=zeros,
    num_correct=zeros.astype(np.float32),
    outcome=rollout.outcome,
    problem_id=rollout.problem_id,
    sample_id=rollout.sample_id,
  )


def _figures(
  workdir: pathlib.Path,
  q_hat: Float[np.ndarray, "B P"],
  references: References,
  tested: dict[str, Any],
  title: str,
) -> list[pathlib.Path]:
  from pav_jax.reporting import calibration_plots, value_plots

  targets, mask = references.targets, references.mask
  best = references.q_mc if references.exact is None else references.exact
  where = mask & np.isfinite(best)
  written = [
    calibration_plots.reliability(
      workdir, {"verifier": q_hat}, np.where(where, best, 0), where
    )
  ]
  clear = np.isfinite(targets.outcome)
  arguments = (q_hat[clear], targets.outcome[clear], mask[clear])
  for plot in value_plots.value_traces, value_plots.value_distribution:
    written.append(plot(workdir, *arguments, title=title))
  pooled = {"outcome": tested["outcome"]["auc"]["by_step"]}
  within = {}
  for name, label in (
    ("no_error", "no error so far"),
    ("step_right", "last step right"),
  ):
    if name in tested:
      pooled[label] = tested[name]["auc"]["by_step"]
      if "within" in tested[name]:
        within[label] = tested[name]["within"]["by_step"]
  number = np.asarray(tested["prefixes_by_step"])
  written.append(
    value_plots.auc_by_step(
      workdir,
      {name: _numbers(xs) for name, xs in pooled.items()},
      {
        name: {kind: _numbers(xs) for kind, xs in kinds.items()}
        for name, kinds in within.items()
      },
      number=number,
    )
  )
  written.append(
    value_plots.by_step(
      workdir,
      "ece_by_step",
      {
        f"against {name.replace('_', ' ')}": _numbers(
          tested[name]["ece"]["by_step"]
        )
        for name in ("outcome", "monte_carlo", "exact")
        if name in tested
      },
      ylabel="expected calibration error",
      number=number,
      title=title,
    )
  )
  return written


def _numbers(xs: Sequence[float | None]) -> np.ndarray:
  """A column of a report, NaN for None."""
  return np.array([np.nan if x is None else x for x in xs])


def show(title: str, tested: dict[str, Any]) -> None:
  """The report as a table: a row for each reference."""

  def text(*path):
    value = tested
    for key in path:
      value = value.get(key) if isinstance(value, dict) else None
    return "" if value is None else f"{value:.3f}"

  rows = []
  for name in ("outcome", "monte_carlo", "exact", "no_error", "step_right"):
    if name in tested:
      rows.append(
        [
          name.replace("_", " "),
          text(name, "auc", "middle"),
          text(name, "within", "least_middle"),
          text(name, "correlation", "middle"),
          text(name, "mse", "middle"),
          text(name, "ece", "worst_step"),
        ]
      )
  progress.table(
    f"{title}: {tested['traces']} test traces of {tested['problems']} problems",
    ["middle steps", "AUC", "least within", "correlation", "MSE", "worst ECE"],
    rows,
  )
  for name in ("first_error", "process_bench"):
    if name in tested:
      progress.say(
        f"{name.replace('_', ' ')}: F1 {text(name, 'f1')} (erroneous "
        f"{text(name, 'erroneous')}, correct {text(name, 'correct')})"
      )
