"""Tables and the figure of a bench."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pav_jax.reporting import drawing, seed_plots
from studies.credit.measure import Moments

# What the figure shows; tables have all. Line styles: see `_KINDS`.
SHOWN = {
  "REINFORCE": ("#000000", "-"),
  "RLOO": (drawing.colour("outcome"), "-"),
  "GRPO": ("#56B4E9", "-"),
  "DAPO": ("#7A9A01", "-"),
  "PPO, learned critic": ("#A50F5B", "-"),
  "TreeRL": ("#5E4FA2", "-"),
  "PRIME": ("#8B5A2B", "-"),
  "VinePPO, M = 4": ("#E69F00", "--"),
  "PURE, M = 4": ("#666666", "--"),
  "PAV, Best-of-4, M = 4": (drawing.colour("pav"), "--"),
  "PAV, fixed prover, M = 4": ("#CC79A7", "--"),
  "exact advantages": (drawing.colour("exact"), ":"),
  "PAV, exact Best-of-4": (drawing.colour("pav"), ":"),
  "PAV, exact fixed prover": ("#CC79A7", ":"),
}
_KINDS = (
  "solid: learns from outcomes alone; dashed: from completions too; dotted: "
  "from exact values, which nobody has"
)
BUDGETS = tuple(10.0**x for x in np.linspace(1.5, 5, 15))


def moments_of(cells: Mapping[str, Any], *cell: Any) -> Moments:
  """Those of `gradients` / problem / rate / arm."""
  found = cells["/".join(map(str, ("gradients", *cell)))]
  return Moments(**{name: np.array(x) for name, x in found.items()})


def tables(settings: Any, cells: Mapping[str, Any]) -> str:
  """Markdown: for each problem and rate the gradients, then the curves."""
  lines = []
  for problem in settings.problems:
    lines += _gradient_table(settings, cells, problem)
  for problem in settings.problems:
    lines += _curve_table(cells, problem, settings.start, settings.trained)
  lines += _curve_table(
    cells, "planted", settings.hard_start, settings.hard_arms
  )
  return "\n".join(lines)


def _gradient_table(settings, cells, problem):
  rates = settings.rates
  lines = [
    f"\n{problem}: cosine of the expected gradient; cosine with 2,560 tokens; "
    "tokens at which noise is as large as signal\n",
    "| arm | " + " | ".join(f"{100 * rate:g} %" for rate in rates) + " |",
    "|---|" + "---|" * len(rates),
  ]
  for arm in settings.arms:
    columns = []
    for rate in rates:
      m = moments_of(cells, problem, rate, arm.name)
      # Of the seeds together, which are as many samples more.
      whole = Moments(*(x.mean(keepdims=True) for x in m))
      direction = min(float(whole.direction[0]), 1.0)
      columns.append(
        f"{direction:.2f}, {whole.cosine(2560)[0]:.2f} "
        f"± {_spread(m.cosine(2560)):.2f}, {_short(whole.noise[0])}"
      )
    lines.append(f"| {arm.name} | " + " | ".join(columns) + " |")
  lines += [
    f"\n{problem}: length along the exact gradient (1 is right)\n",
    "| arm | " + " | ".join(f"{100 * rate:g} %" for rate in rates) + " |",
    "|---|" + "---|" * len(rates),
  ]
  for arm in settings.arms:
    columns = []
    for rate in rates:
      scale = moments_of(cells, problem, rate, arm.name).scale
      columns.append(f"{scale.mean():.2f} ± {_spread(scale):.2f}")
    lines.append(f"| {arm.name} | " + " | ".join(columns) + " |")
  return lines


def _curve_table(cells, problem, start, arms):
  lines = [
    f"\n{problem} from {100 * start:g} %\n",
    "| arm | learning rate | responses' worth of tokens an update | mean over "
    "the curve | at the end, median (least, most) | updates to 50 % |",
    "|---|---|---|---|---|---|",
  ]
  for arm in arms:
    cell = cells[f"learning/{problem}/{start}/{arm.name}"]
    success = np.array(cell["success"])
    area, last = success.mean(-1), success[:, -1]
    lines.append(
      f"| {arm.name} | {cell['learning_rate']:g} | {cell['tokens']:.0f} | "
      f"{area.mean():.3f} ± {_spread(area):.3f} | {np.median(last):.3f} "
      f"({last.min():.3f}, {last.max():.3f}) | {_reaching(success, 0.5)} |"
    )
  return lines


def _reaching(success, level):
  """The median over seeds of the first update at a level; – if not half."""
  reached = success >= level
  first = np.where(reached.any(-1), reached.argmax(-1), np.inf)
  median = np.median(first)
  return f"{median:.0f}" if np.isfinite(median) else "–"


def _spread(x):
  """The standard error of a mean over seeds."""
  return float(np.std(x, ddof=1) / np.sqrt(len(x))) if len(x) > 1 else np.nan


def _short(x):
  return f"{x:.0f}" if x < 1e4 else f"{x / 1e3:.0f}k"


def draw(path: pathlib.Path, settings: Any, cells: Mapping[str, Any]) -> None:
  """Cosine by tokens and by success rate, and learning curves; a PNG file.

  Args:
    path: of the file.
    settings: of the bench.
    cells: as measured.
  """
  look = {
    arm.name: {"color": SHOWN[arm.name][0], "linestyle": SHOWN[arm.name][1]}
    for arm in settings.arms
    if arm.name in SHOWN
  }
  rate = settings.rates[len(settings.rates) // 2 - 1]
  budget, columns = 2560, len(settings.problems)
  with drawing.figure(path, 5.4 * columns, 11) as figure:
    axes = figure.subplots(3, columns, squeeze=False)
    said = ""
    for column, problem in enumerate(settings.problems):
      by_tokens, by_rate, learning = axes[:, column]
      curves = {}
      for name, of in look.items():
        at = [moments_of(cells, problem, r, name) for r in settings.rates]
        whole = [Moments(*(x.mean() for x in m)) for m in at]
        here = whole[settings.rates.index(rate)]
        budgets = [b for b in BUDGETS if b >= here.tokens]
        y = [here.cosine(b) for b in budgets]
        drawing.line(by_tokens, name, budgets, y, of, linewidth=1.1)
        y = [m.cosine(budget) if m.tokens <= budget else np.nan for m in whole]
        dots = {"marker": ".", "linewidth": 1.1}
        drawing.line(by_rate, name, settings.rates, y, of, **dots)
        cell = cells[f"learning/{problem}/{settings.start}/{name}"]
        curves[name] = np.array(cell["success"]).T
      by_tokens.set(xscale="log", ylim=(0, 1.02), xlabel="sampled tokens")
      by_tokens.set(ylabel="cosine, 1: the exact direction")
      by_tokens.set_title(f"{problem}: gradients at {rate:.0%} success")
      by_rate.set(xscale="logit", ylim=(0, 1.02))
      by_rate.set(xlabel="success rate of the policy")
      by_rate.set(ylabel="cosine, 1: the exact direction")
      by_rate.set_title(f"{problem}: gradients of {budget:,} tokens")
      by_rate.set_xticks(settings.rates, [f"{r:.0%}" for r in settings.rates])
      by_rate.minorticks_off()
      updates = range(len(next(iter(curves.values()))))
      parted = seed_plots.parted_arms(curves)
      lines = seed_plots.arms(
        learning, curves, look, parted, updates, shares=True
      )
      said = max(said, lines, key=len)
      learning.set(ylim=(-0.02, 1.02), ylabel="success rate")
      learning.set(title=f"{problem}: learning from {settings.start:.0%}")
      learning.set_xlabel(
        f"updates of {settings.batch} responses' worth of tokens"
      )
      drawing.percent(learning.yaxis)
    drawing.say(
      figure,
      "How close estimated gradients are to the exact one, and what is learned",
      _KINDS,
      f"learning: {said}",
    )
