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
_FEW = ("best of N", "majority", "greedy")  # and beams


def every(
  workdir: str | os.PathLike,
  report: Mapping[str, Any],
  more: Mapping[str, Any],
) -> list[pathlib.Path]:
  """All figures that a report has numbers for."""
  figures = [
    accuracy(workdir, report),
    all_methods(workdir, report),
    pass_at_n(workdir, report),
  ]
  if "alphas" in more.get("alpha", {}):
    figures.append(alpha(workdir, more["alpha"]))
  if "outcome_error" in more:
    figures.append(outcome_error(workdir, more["outcome_error"]))
  return figures


def accuracy(
  workdir: str | os.PathLike, report: Mapping[str, Any], *, title: str = ""
) -> pathlib.Path:
  """Beams, best-of-N, majority and greedy decoding, `accuracy.png`.

  Accuracy against N and, beside it, against generated tokens. Beams that are
  equal share a line.

  Args:
    workdir: where the file goes.
    report: method -> numbers, from `runs.search_report.summarize`; `least` and
      `most` beside the accuracy are drawn as a band, else standard errors.
    title: of the figure.
  """
  path = pathlib.Path(workdir) / "accuracy.png"
  groups: dict[tuple, list[str]] = {}
  for name, found in report.items():
    if name in _FEW or name.startswith("beam"):
      key = (name in _FEW and name, *found["accuracy"], *found["generated"])
      groups.setdefault(key, []).append(name)
  names = [of_group[0] for of_group in groups.values()]
  own = plots.colours(names)
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for name in names:
      found = report[name]
      for panel, (cost, _) in zip(axes, _AXES[:2], strict=True):
        _line(panel, found[cost], found, own[name], single=name == "greedy")
    _scale(axes)
    axes[0].set_ylabel("share of problems answered right")
    axes[0].set_ylim(0, 1)
    plots.label_lines(
      axes[1],
      {
        " = ".join(of_group): (
          report[of_group[0]]["generated"][-1],
          report[of_group[0]]["accuracy"][-1],
          own[of_group[0]],
        )
        for of_group in groups.values()
      },
    )
    banded = any("least" in found for found in report.values())
    shown = "bands: least to most" if banded else "bars: standard errors"
    figure.suptitle(f"{title or 'test problems'} ({shown})", fontsize="medium")
    figure.savefig(path)
    plt.close(figure)
  return path


def _line(panel, x, found, colour, *, single: bool) -> None:
  """A method's curve; one of a single point as a line across the panel."""
  y = np.array(found["accuracy"])
  if single:
    panel.axhline(y[0], color=colour, linestyle="--", linewidth=1)
  elif "least" in found:
    panel.plot(x, y, "o-", markersize=4, color=colour)
    panel.fill_between(
      x, found["least"], found["most"], color=colour, alpha=0.2, linewidth=0
    )
  else:
    panel.errorbar(
      x,
      y,
      yerr=found["standard_error"],
      fmt="o-",
      markersize=4,
      elinewidth=0.8,
      color=colour,
    )


def all_methods(
  workdir: str | os.PathLike, report: Mapping[str, Any]
) -> pathlib.Path:
  """Accuracy of every method against N, tokens and FLOPs; `all_methods.png`.

  Methods that are equal in all of these share a line.

  Args:
    workdir: where the file goes.
    report: method -> numbers, from `runs.search_report.summarize`.
  """
  path = pathlib.Path(workdir) / "all_methods.png"
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
