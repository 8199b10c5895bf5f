"""Figures of reinforcement learning of language models."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter, PercentFormatter, ScalarFormatter

from pav_jax.reporting import plots

_THEOREM = ("distinguishability", "alignment", "k")
_PROBES = ("no_progress", "empty", "distinct", "score_gap", "length", "entropy")


def write_all(
  workdir: str | os.PathLike,
  arms: Mapping[str, Mapping[str, Any]],
  start: Mapping[str, Any],
  first: str,
) -> list[pathlib.Path]:
  """All figures of a comparison.

  Args:
    workdir: where the files go.
    arms: the report's, each with `curves`, `validation` and `pass_at_k` of all
      seeds.
    start: the report on the policy that all arms started from.
    first: the arm that others are compared with.
  """
  del first
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
        plots._spread(panel, x, values, name)
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
          plots._spread(panel, x, means, name, color=f"C{number}")
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


def regimes(
  workdir: str | os.PathLike,
  found: Sequence[Mapping[str, Any]],
  names: Sequence[str],
) -> pathlib.Path:
  """How many times fewer iterations, and how far ahead, by start.

  Above against the accuracy reached, below against iterations.

  Args:
    workdir: where `regimes.png` goes.
    found: regimes in order of their start, as of `runs.rl_regimes.compare`.
    names: of arms, a panel each.
  """
  path = pathlib.Path(workdir) / "regimes.png"
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(
      2,
      len(names),
      figsize=(4.2 * len(names), 7.0),
      sharex="row",
      sharey="row",
      squeeze=False,
    )
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(found)))
    for ax, name in zip(axes[0], names, strict=True):
      for regime, color in zip(found, colors, strict=True):
        levels = regime["arms"].get(name, {}).get("levels", {})
        known = sorted((float(x), of) for x, of in levels.items())
        if not known:
          continue
        ax.plot(
          [x for x, _ in known],
          [of["median"] for _, of in known],
          color=color,
          label=f"{100 * regime['start']:.2g} %",
        )
        for x, of in known:
          ratios = [r for r in of["ratios"] if r > 0]
          marker = "^" if of["is_bound"] else "."
          ax.plot([x] * len(ratios), ratios, marker, color=color, alpha=0.5)
      ax.axhline(1.0, color="black", linewidth=0.8)
      ax.set(xscale="log", yscale="log", xlabel="accuracy reached", title=name)
      ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
      ax.yaxis.set_major_formatter(ScalarFormatter())
      ax.yaxis.set_minor_formatter(NullFormatter())
      ax.set_yticks([1, 2, 3, 5, 10])
    for ax, name in zip(axes[1], names, strict=True):
      for regime, color in zip(found, colors, strict=True):
        ahead = regime["arms"].get(name, {}).get("ahead", {})
        at = sorted(map(int, ahead))
        ax.plot([0, *at], [0.0, *(ahead[str(x)] for x in at)], color=color)
      ax.axhline(0.0, color="black", linewidth=0.8)
      ax.set_xlabel("iteration")
    axes[1, 0].set_ylabel("points ahead of outcome-only")
    axes[0, 0].set_ylabel("times fewer iterations than outcome-only")
    axes[0, -1].legend(
      title="start", loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    figure.savefig(path)
    plt.close(figure)
  return path
