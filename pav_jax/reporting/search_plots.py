"""Figures of comparisons of searches."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from pav_jax.reporting import plots

_AXES = (
  ("n", "N, samples or beams"),
  ("generated", "generated tokens a problem"),
  ("flops", "FLOPs a problem"),
)


def every(
  workdir: str | os.PathLike,
  report: Mapping[str, Any],
  more: Mapping[str, Any],
) -> list[pathlib.Path]:
  """All figures that a report has numbers for."""
  figures = [accuracy(workdir, report), pass_at_n(workdir, report)]
  if "alphas" in more.get("alpha", {}):
    figures.append(alpha(workdir, more["alpha"]))
  if "outcome_error" in more:
    figures.append(outcome_error(workdir, more["outcome_error"]))
  return figures


def accuracy(
  workdir: str | os.PathLike, report: Mapping[str, Any]
) -> pathlib.Path:
  """Accuracy against N, tokens and FLOPs, side by side; `accuracy.png`.

  Methods that are equal in all of these share a line.

  Args:
    workdir: where the file goes.
    report: method -> numbers, from `runs.search_report.summarize`.
  """
  path = pathlib.Path(workdir) / "accuracy.png"
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), sharey=True)
    lines: dict[tuple, list[str]] = {}
    for name, found in report.items():
      key = tuple(tuple(found[x]) for x in ("accuracy", "generated", "flops"))
      lines.setdefault(key, []).append(name)
    colors = plt.get_cmap("tab20")(np.arange(len(lines)) % 20)
    for names, color in zip(lines.values(), colors, strict=True):
      found = report[names[0]]
      for panel, (cost, _) in zip(axes, _AXES, strict=True):
        panel.errorbar(
          found[cost],
          found["accuracy"],
          yerr=found["standard_error"],
          fmt="o-",
          markersize=3,
          linewidth=1,
          elinewidth=0.6,
          color=color,
          label="\n= ".join(names),
        )
    _scale(axes)
    axes[0].set_ylabel("accuracy (bars: standard errors)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
      handles, labels, loc="outside right upper", fontsize="x-small"
    )
    figure.savefig(path)
    plt.close(figure)
  return path


def _scale(axes) -> None:
  """Logarithmic axes, with powers of two where N is."""
  for panel, (cost, label) in zip(axes, _AXES, strict=False):
    panel.set_xscale("log", base=2 if cost == "n" else 10)
    panel.set_xlabel(label)
    panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
  axes[0].xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%d"))


def pass_at_n(
  workdir: str | os.PathLike, report: Mapping[str, Any]
) -> pathlib.Path:
  """How often a right response is among N samples or beams (Fig. 6a).

  Against N and, beside it, against generated tokens; `pass_at_n.png`. Methods
  that rank the same samples share a line.
  """
  path = pathlib.Path(workdir) / "pass_at_n.png"
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    drawn = set()
    for name, found in report.items():
      curve = tuple(found["pass_at_n"])
      if curve in drawn:
        continue
      drawn.add(curve)
      for panel, (cost, _) in zip(axes, _AXES[:2], strict=True):
        label = "samples" if name == "best of N" else name
        panel.plot(found[cost], curve, "o-", markersize=3, label=label)
    _scale(axes)
    axes[0].set_ylabel("problems with a right response among N")
    axes[0].legend(fontsize="x-small")
    figure.savefig(path)
    plt.close(figure)
  return path


def alpha(workdir: str | os.PathLike, tuned: Mapping[str, Any]) -> pathlib.Path:
  """Accuracy on validation problems against α, `alpha.png`.

  Args:
    workdir: where the file goes.
    tuned: from `search.tune_alpha.best_alpha`.
  """
  path = pathlib.Path(workdir) / "alpha.png"
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(figsize=(5, 3.4))
    axes.errorbar(
      tuned["alphas"], tuned["accuracy"], yerr=tuned["standard_error"], fmt="o-"
    )
    axes.axvline(tuned["alpha"], color="black", linestyle=":")
    axes.set(xlabel="α", ylabel="accuracy, validation problems")
    figure.savefig(path)
    plt.close(figure)
  return path


def outcome_error(
  workdir: str | os.PathLike, errors: Mapping[str, Any]
) -> pathlib.Path:
  """Errors of predicting the outcome at each step, `outcome_error.png`.

  Args:
    workdir: where the file goes.
    errors: from `runs.search_report.outcome_errors`.
  """
  path = pathlib.Path(workdir) / "outcome_error.png"
  labels = {"q_policy": "$Q^π$", "effective_reward": "$Q^π + α A^μ$"}
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(figsize=(5, 3.4))
    for name, label in labels.items():
      values = [np.nan if x is None else x for x in errors[name]]
      axes.plot(errors["step"], values, "o-", markersize=3, label=label)
    axes.set(xlabel="step", ylabel="wrong predictions of the outcome")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path)
    plt.close(figure)
  return path
