"""Figures of reinforcement learning of language models."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from pav_jax.reporting import plots

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
  accuracy = {
    name: np.array(found["curves"]["accuracy"], np.float64).T
    for name, found in arms.items()
  }
  ks = [int(k) for k in start["pass_at_k"]]
  base = np.array(list(start["pass_at_k"].values()))[:, None]
  passes = {"start": base} | {
    name: np.array(list(found["pass_at_k"].values()))
    for name, found in arms.items()
  }
  return [
    plots.learning_curves(workdir, accuracy),
    plots.pass_at_n(workdir, ks, passes, title="test problems"),
    held_out(workdir, arms),
    curves(workdir, arms, _THEOREM, "theorem.png"),
    curves(workdir, arms, _PROBES, "probes.png"),
  ]


def held_out(
  workdir: str | os.PathLike, arms: Mapping[str, Mapping[str, Any]]
) -> pathlib.Path:
  """Accuracy and KL on held-out problems while training, `held_out.png`."""
  path = pathlib.Path(workdir) / "held_out.png"
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for name, found in arms.items():
      validation = found["validation"]
      x = validation["iteration"][0]
      for panel, metric in zip(axes, ("accuracy", "kl"), strict=True):
        values = np.array(validation[metric], np.float64).T
        plots.spread(panel, x, values, name)
    axes[0].set(xlabel="iteration", ylabel="accuracy, held out")
    axes[1].set(xlabel="iteration", ylabel="KL to the start, nats a response")
    axes[0].legend()
    figure.savefig(path)
    plt.close(figure)
  return path


def curves(
  workdir: str | os.PathLike,
  arms: Mapping[str, Mapping[str, Any]],
  metrics: Sequence[str],
  file: str,
  *,
  window: int = 10,
) -> pathlib.Path:
  """Metrics of training batches, a panel each; arms that lack one are left out.

  Args:
    workdir: where the file goes.
    arms: as of `write_all`.
    metrics: names.
    file: its name.
    window: batches averaged.
  """
  path = pathlib.Path(workdir) / file
  columns = min(3, len(metrics))
  rows = -(-len(metrics) // columns)
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(
      rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False
    )
    lines = {}
    for panel, metric in zip(axes.flat, metrics, strict=False):
      for number, (name, found) in enumerate(arms.items()):
        if metric in found["curves"]:
          values = np.array(found["curves"][metric], np.float64).T
          means = plots.trailing_mean(values, window)
          x = np.arange(1, len(means) + 1)
          plots.spread(panel, x, means, name, color=f"C{number}")
      panel.set(xlabel="iteration", ylabel=metric.replace("_", " "))
      handles, labels = panel.get_legend_handles_labels()
      lines |= dict(zip(labels, handles, strict=True))
    lines = {name: lines[name] for name in arms if name in lines}
    if lines:
      figure.legend(
        lines.values(), lines.keys(), loc="outside upper center", ncols=4
      )
    figure.savefig(path)
    plt.close(figure)
  return path
