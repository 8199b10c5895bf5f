"""Figures of reinforcement learning of language models."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.reporting import drawing, plots, seed_plots

# Metric -> what it is, and its unit.
_SAID = {
  "distinguishability": (
    "distinguishability of steps by the prover",
    "variance of its advantages",
  ),
  "alignment": ("alignment of prover and policy", "mean product of advantages"),
  "k": ("K of the Best-of-K prover", "completions"),
  "no_progress": ("steps that change nothing", "share of steps"),
  "empty": ("steps without content", "share of steps"),
  "distinct": ("wrong responses unlike earlier ones", "share of wrong ones"),
  "score_gap": (
    "prover's value of whole responses",
    "probability above the outcome",
  ),
  "length": ("length of a response", "tokens"),
  "entropy": ("entropy of a response", "nats"),
}
_THEOREM = ("distinguishability", "alignment", "k")
_PROBES = ("no_progress", "empty", "distinct", "score_gap", "length", "entropy")


def write_all(
  workdir: str | os.PathLike,
  arms: Mapping[str, Mapping[str, Any]],
  start: Mapping[str, Any],
) -> list[pathlib.Path]:
  """All figures of a comparison.

  Args:
    workdir: where the files go.
    arms: the report's, each with `curves`, `validation` and `pass_at_k` of all
      seeds.
    start: the report on the policy that all arms started from.
  """
  ks = [int(k) for k in start["pass_at_k"]]
  base = np.array(list(start["pass_at_k"].values()))[:, None]
  passes = {"start": base} | {
    name: np.array(list(found["pass_at_k"].values()))
    for name, found in arms.items()
  }
  return [
    plots.learning_curves(workdir, _column(arms, "accuracy")),
    plots.pass_at_n(workdir, ks, passes, title="test problems"),
    held_out(workdir, arms),
    curves(
      workdir,
      arms,
      _THEOREM,
      "theorem.png",
      title="What the prover tells of steps (terms of Theorem 3.1)",
    ),
    curves(
      workdir,
      arms,
      _PROBES,
      "probes.png",
      title="Signs of reward hacking in training batches",
    ),
  ]


def _column(
  arms: Mapping[str, Mapping[str, Any]], metric: str
) -> dict[str, np.ndarray]:
  """float[iterations, seeds] of every arm that has the metric."""
  return {
    name: np.array(found["curves"][metric], np.float64).T
    for name, found in arms.items()
    if metric in found["curves"]
  }


def held_out(
  workdir: str | os.PathLike, arms: Mapping[str, Mapping[str, Any]]
) -> pathlib.Path:
  """Accuracy and KL on held-out problems while training, `held_out.png`."""
  path = pathlib.Path(workdir) / "held_out.png"
  look = drawing.looks(arms)
  accuracy, kl = (
    {
      name: np.array(found["validation"][metric], np.float64).T
      for name, found in arms.items()
    }
    for metric in ("accuracy", "kl")
  )
  parted = seed_plots.parted_arms(accuracy)
  x = next(iter(arms.values()))["validation"]["iteration"][0]
  with drawing.figure(path, 11, 4) as figure:
    left, right = figure.subplots(1, 2)
    said = seed_plots.arms(left, accuracy, look, parted, x, shares=True)
    seed_plots.arms(right, kl, look, parted, x)
    left.set(xlabel="iteration", ylabel="right responses", ylim=(-0.02, 1.02))
    left.set_title("accuracy")
    drawing.percent(left.yaxis)
    right.set(xlabel="iteration", ylabel="nats a response")
    right.set_title("KL divergence from the start")
    drawing.say(figure, "Held-out problems while training", said)
  return path


def curves(
  workdir: str | os.PathLike,
  arms: Mapping[str, Mapping[str, Any]],
  metrics: Sequence[str],
  file: str,
  *,
  title: str = "",
  window: int = 10,
) -> pathlib.Path:
  """Metrics of training batches, a panel each; arms that lack one are left out.

  Args:
    workdir: where the file goes.
    arms: as of `write_all`.
    metrics: names.
    file: its name.
    title: of the figure.
    window: batches averaged.
  """
  path = pathlib.Path(workdir) / file
  columns = min(3, len(metrics))
  rows = -(-len(metrics) // columns)
  accuracy = {
    name: plots.trailing_mean(values, window)
    for name, values in _column(arms, "accuracy").items()
  }
  parted = dict.fromkeys(arms, False) | seed_plots.parted_arms(accuracy)
  look, said = drawing.looks(arms), ""
  with drawing.figure(path, 5 * columns, 3 * rows + 0.6) as figure:
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for panel, metric in zip(grid, metrics, strict=False):
      means = {
        name: plots.trailing_mean(values, window)
        for name, values in _column(arms, metric).items()
      }
      if not means:
        panel.set_axis_off()
        continue
      lines = seed_plots.arms(panel, means, look, parted)
      said = max(said, lines, key=len)
      what, unit = _SAID.get(metric, (metric.replace("_", " "), ""))
      panel.set(xlabel="iteration", ylabel=unit, title=what)
      if unit.startswith("share"):
        drawing.percent(panel.yaxis)
    drawing.say(figure, title, f"means of {window} batches; {said}")
  return path
