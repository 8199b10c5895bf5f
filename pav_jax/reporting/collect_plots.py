"""What a data set of step targets holds: numbers, tables and a figure."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import ticker

from pav_jax import advantages
from pav_jax.provers.budget import is_decided
from pav_jax.reporting import drawing, progress
from pav_jax.rollout import StepTargets

BINS = 10


def summarize(
  targets: StepTargets, *, pit_high: float = 0.25
) -> dict[str, Any]:
  """Numbers for a report, lists by step or by bin of values.

  Steps count from 0, the bare problem. Values are c / n; only prefixes with
  n > 0 count, and whole responses for nothing but `accuracy`.

  Args:
    targets: of numpy arrays.
    pit_high: value that a trace must have reached before its first pit, see
      `advantages.first_pit`.

  Returns:
    `traces`, `problems`, `accuracy` (mean outcome of traces); `labels` and
    `completions`, of prefixes; `values`, how many of them lie in each of ten
    bins of [0, 1]; `value_by_step`, `labels_by_step`, `decided_by_step` (share
    whose side of 0.5 is known at 95 %), None where there are none; `decided`,
    of all; `traces_with_pit` and `pits_by_step`, how many traces have their
    first step of value 0 there.
  """
  n = np.asarray(targets.num_completions)
  c = np.asarray(targets.num_correct)
  prefix_len = np.asarray(targets.prefix_len)
  whole = prefix_len == prefix_len[:, -1:]
  whole[:, 0] = False
  labelled = (n > 0) & ~whole
  q = np.where(n > 0, c / np.maximum(n, 1), 0)
  decided = labelled & is_decided(c, n)
  number = labelled.sum(0)
  pits = first_pits(targets, pit_high=pit_high)
  outcome = np.asarray(targets.outcome)

  def by_step(x):
    total = np.where(labelled, x, 0).sum(0)
    return [
      float(a / b) if b else None for a, b in zip(total, number, strict=True)
    ]

  return {
    "traces": len(n),
    "problems": len(np.unique(targets.problem_id)),
    "accuracy": float(np.nanmean(outcome)) if len(n) else 0.0,
    "labels": int(number.sum()),
    "completions": int(n[labelled].sum()),
    "values": np.histogram(q[labelled], BINS, (0, 1))[0].tolist(),
    "value_by_step": by_step(q),
    "labels_by_step": number.tolist(),
    "decided_by_step": by_step(decided),
    "decided": float(decided.sum() / max(number.sum(), 1)),
    "traces_with_pit": int((pits > 0).sum()),
    "pits_by_step": np.bincount(
      pits[pits > 0], minlength=prefix_len.shape[1]
    ).tolist(),
  }


def first_pits(targets: StepTargets, *, pit_high: float) -> np.ndarray:
  """The prefix at which each wrong trace first has value 0; 0 for none.

  A prefix of which nothing is known counts as no pit.
  """
  n = np.asarray(targets.num_completions)
  c = np.asarray(targets.num_correct)
  q = np.where(n > 0, c / np.maximum(n, 1), 1e-6)
  found = advantages.first_pit(
    q.astype(np.float32), np.asarray(targets.outcome), high=pit_high
  )
  return np.asarray(found) + 1


def figure(
  workdir: str | os.PathLike, summary: Mapping[str, Any]
) -> pathlib.Path:
  """Values, values by step, decided prefixes and first pits, `collect.png`.

  Args:
    workdir: where the file goes.
    summary: from `summarize`.
  """
  path = pathlib.Path(workdir) / "collect.png"
  number = np.array(summary["labels_by_step"])
  steps, few = np.arange(len(number)), number < drawing.FEW_TRACES
  color = drawing.colour("verifier")
  with drawing.figure(path, 14, 3.8) as figure:
    axes = figure.subplots(1, 4)
    edges = np.linspace(0, 1, BINS + 1)
    axes[0].bar(
      edges[:-1], summary["values"], 0.9 / BINS, align="edge", color=color
    )
    axes[0].set(xlabel="value, a probability", ylabel="prefixes")
    axes[0].set_title("values of prefixes")
    if any(summary["values"]):
      axes[0].set(yscale="log", ylim=(0.8, None))
    faded = False
    for panel, name, title in (
      (axes[1], "value_by_step", "mean value"),
      (axes[2], "decided_by_step", "prefixes decided: above or below 50 %"),
    ):
      y, dots = summary[name], {"marker": "o", "markersize": 3}
      faded |= drawing.line(
        panel, "", steps, y, {"color": color}, number=number, **dots
      )
      panel.set_title(title)
    axes[1].set(ylabel="probability to end right", ylim=(0, None))
    axes[2].set(ylabel="share of prefixes", ylim=(-0.02, 1.02))
    drawing.percent(axes[2].yaxis)
    bars = axes[3].bar(steps, summary["pits_by_step"], color=color)
    for bar, is_few in zip(bars, few, strict=True):
      bar.set_alpha(drawing.FADED if is_few else 1)
    axes[3].set(ylabel="traces", title="first step of value 0 of wrong traces")
    for each in axes[1:]:
      each.set(xlabel="step (0: the bare problem)")
      each.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    drawing.say(
      figure,
      f"What {summary['traces']:,} traces with Monte-Carlo values hold; "
      "dots: steps",
      drawing.FADED_SAYS * faded,
    )
  return path


def print_tables(
  experiment: str, summary: Mapping[str, Any], work: Mapping[str, Any]
) -> None:
  """What was collected and what it took, as tables."""

  def cell(value, form):
    return "" if value is None else format(value, form)

  rows = zip(
    summary["labels_by_step"],
    summary["value_by_step"],
    summary["decided_by_step"],
    summary["pits_by_step"],
    strict=True,
  )
  progress.table(
    f"{experiment}: {summary['traces']:,} traces of {summary['problems']:,} "
    f"problems, {100 * summary['accuracy']:.1f} % correct; "
    f"{summary['labels']:,} prefixes, {100 * summary['decided']:.0f} % decided",
    ["step", "prefixes", "mean value", "decided", "first pits"],
    [
      [str(h), f"{n:,}", cell(q, ".3f"), cell(d, ".2f"), f"{pits:,}"]
      for h, (n, q, d, pits) in enumerate(rows)
      if n
    ],
  )
  progress.table(
    f"{work['completions']:,} completions, "
    f"{work['completions_per_second']:,.0f} a second"
    + (
      f", {100 * work['useful_slots']:.0f} % of decode slots useful"
      if work["useful_slots"]
      else ""
    ),
    ["completions", "number"],
    [
      [name, f"{work[key]:,}"]
      for key, name in (
        ("stored", "stored"),
        ("deciding", "made to decide, not stored"),
        ("saved", "saved by stopping early"),
        ("free_final", "free: whole responses"),
        ("free_dead", "free: dead for certain"),
        ("free_shared", "free: prefixes of several traces"),
      )
    ],
  )
