"""Figures of comparisons of searches."""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker

from pav_jax.reporting import drawing

_AXES = (
  ("n", "N, samples or beams"),
  ("generated", "generated tokens a problem"),
  ("flops", "FLOPs a problem"),
)
_GREEDY = "greedy"
_FEW = ("best of N", "majority", _GREEDY)  # and beams
# What a report has -> how it is drawn.
_SAID = {
  "least": "dots: the N that were tried, bands: least to most of the seeds",
  "standard_error": "dots: the N that were tried, bars: standard errors",
  "n": "dots: the N that were tried",
}
# The colours of scores are those of the beams that are ordered by them.
_AS = {"q_policy": "beam, Q alone", "effective_reward": "beam"}


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
  few = {
    name: numbers
    for name, numbers in report.items()
    if name in _FEW or name.startswith("beam")
  }
  groups: dict[tuple, list[str]] = {}
  for name, numbers in few.items():
    key = (name in _FEW and name, *numbers["accuracy"], *numbers["generated"])
    groups.setdefault(key, []).append(name)
  _draw(
    path,
    few,
    groups.values(),
    _AXES[:2],
    title=f"Problems answered right: {title or 'test problems'}",
  )
  return path


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
  lines: dict[tuple, list[str]] = {}
  for name, numbers in report.items():
    key = tuple(tuple(numbers[x]) for x in ("accuracy", "generated", "flops"))
    lines.setdefault(key, []).append(name)
  _draw(
    path,
    report,
    lines.values(),
    _AXES,
    title="Problems answered right: every method",
  )
  return path


def pass_at_n(
  workdir: str | os.PathLike, report: Mapping[str, Any]
) -> pathlib.Path:
  """How often a right response is among N samples or beams (Fig. 6a).

  Against N and, beside it, against generated tokens; `pass_at_n.png`. Methods
  that rank the same samples share a line.
  """
  path = pathlib.Path(workdir) / "pass_at_n.png"
  lines: dict[tuple, str] = {}
  for name, numbers in report.items():
    lines.setdefault(tuple(numbers["pass_at_n"]), name)
  drawn = {
    "samples" if name == "best of N" else name: {
      "n": report[name]["n"],
      "accuracy": curve,
      "generated": report[name]["generated"],
    }
    for curve, name in lines.items()
  }
  _draw(
    path,
    drawn,
    [[name] for name in drawn],
    _AXES[:2],
    title="Problems with a right response among N samples, or N beams",
  )
  return path


def _draw(
  path: pathlib.Path,
  report: Mapping[str, Any],
  groups: Iterable[Sequence[str]],
  axes: Sequence[tuple[str, str]],
  *,
  title: str,
) -> None:
  """A panel for each cost, a line for each group, named at the last panel."""
  groups = list(groups)
  look = drawing.looks([of_group[0] for of_group in groups])
  with drawing.figure(path, 4.4 * len(axes) + 2, 4.4) as figure:
    panels = figure.subplots(1, len(axes), sharey=True)
    for name, of in look.items():
      for panel, (cost, _) in zip(panels, axes, strict=True):
        if name == _GREEDY:
          y = report[name]["accuracy"][0]
          panel.axhline(y, linewidth=1, **of | {"linestyle": "--"})
        else:
          _line(panel, report[name][cost], report[name], of)
    for panel, (cost, label) in zip(panels, axes, strict=True):
      panel.set_xscale("log", base=2 if cost == "n" else 10)
      panel.set_xlabel(label)
      panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    panels[0].xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    panels[0].set(ylabel="share of problems", ylim=(-0.02, 1.02))
    drawing.percent(panels[0].yaxis)
    said = []
    for key, words in _SAID.items():
      if any(key in report[name] for name in look):
        said.append(words)
        break
    if _GREEDY in look:
      said.append("dashed: greedy decoding, one response")
    drawing.say(figure, title, "; ".join(said))
    for of_group in groups:
      name, cost = of_group[0], axes[-1][0]
      x = report[name][cost][-1]
      if name == _GREEDY:
        x = panels[-1].get_xlim()[1]
      end = (x, report[name]["accuracy"][-1])
      drawing.name(panels[-1], "\n= ".join(of_group), end, look[name])


def _line(panel, x, numbers, look) -> None:
  """A method's curve."""
  y = np.array(numbers["accuracy"])
  dots = {"marker": "o", "markersize": 3, "linewidth": 1.2, **look}
  if "least" in numbers:
    panel.plot(x, y, **dots)
    panel.fill_between(
      x, numbers["least"], numbers["most"], color=look["color"], alpha=0.2
    )
  else:
    error = numbers.get("standard_error")
    panel.errorbar(x, y, yerr=error, elinewidth=0.8, **dots)


def alpha(workdir: str | os.PathLike, tuned: Mapping[str, Any]) -> pathlib.Path:
  """Accuracy on validation problems against α, `alpha.png`.

  Args:
    workdir: where the file goes.
    tuned: from `search.tune_alpha.best_alpha`.
  """
  path = pathlib.Path(workdir) / "alpha.png"
  with drawing.figure(path, 5.6, 4) as figure:
    axes = figure.subplots()
    axes.errorbar(
      tuned["alphas"],
      tuned["accuracy"],
      yerr=tuned["standard_error"],
      fmt="o-",
      color=drawing.colour("beam"),
    )
    axes.axvline(tuned["alpha"], color="black", linestyle=":")
    axes.set(xlabel="α, weight of the prover's advantages (0: values alone)")
    axes.set(ylabel="validation problems answered right")
    drawing.percent(axes.yaxis)
    drawing.say(
      figure,
      "Beams on validation problems, by the weight of progress",
      "dots: each α that was tried, with standard errors; dotted: the α taken",
    )
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
  labels = {
    "q_policy": "values alone",
    "effective_reward": "effective rewards",
  }
  with drawing.figure(path, 7, 4) as figure:
    axes = figure.subplots()
    faded = False
    for name, label in labels.items():
      look = {"color": drawing.colour(_AS[name]), "marker": "o"}
      faded |= drawing.line(
        axes,
        label,
        errors["step"],
        np.array(errors[name], np.float64),
        look,
        number=errors["rollouts"],
        markersize=3,
      )
    axes.set(xlabel="step", ylabel="wrong predictions")
    axes.set_ylim(bottom=0)
    drawing.percent(axes.yaxis)
    drawing.say(
      figure,
      "How often a step's score foretells the wrong outcome",
      drawing.FADED_SAYS * faded,
    )
  return path
