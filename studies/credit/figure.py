"""Tables and the figure of a bench."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from pav_jax.reporting import plots
from studies.credit.measure import Moments

# What the figure shows; tables have all. Line styles: solid for outcomes alone,
# dashed for completions, dotted for what nobody has.
SHOWN = {
  "REINFORCE": ("black", "-"),
  "RLOO": ("C0", "-"),
  "GRPO": ("C1", "-"),
  "DAPO": ("C2", "-"),
  "PPO, learned critic": ("C3", "-"),
  "TreeRL": ("C4", "-"),
  "PRIME": ("C5", "-"),
  "VinePPO, M = 4": ("C6", "--"),
  "PURE, M = 4": ("C7", "--"),
  "PAV, Best-of-4, M = 4": ("C8", "--"),
  "PAV, fixed prover, M = 4": ("C9", "--"),
  "exact advantages": ("C3", ":"),
  "PAV, exact Best-of-4": ("C8", ":"),
  "PAV, exact fixed prover": ("C9", ":"),
}
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
  shown = [arm.name for arm in settings.arms if arm.name in SHOWN]
  rate = settings.rates[len(settings.rates) // 2 - 1]
  budget = 2560
  with plt.rc_context(plots.STYLE):
    columns = len(settings.problems)
    figure, axes = plt.subplots(
      3, columns, figsize=(1 + 3.3 * columns, 9.5), squeeze=False
    )
    for column, problem in enumerate(settings.problems):
      by_tokens, by_rate, learning = axes[:, column]
      for name in shown:
        color, line = SHOWN[name]
        style = {"color": color, "linestyle": line, "linewidth": 1.1}
        at = [moments_of(cells, problem, r, name) for r in settings.rates]
        whole = [Moments(*(x.mean() for x in m)) for m in at]
        here = whole[settings.rates.index(rate)]
        budgets = [b for b in BUDGETS if b >= here.tokens]
        by_tokens.plot(budgets, [here.cosine(b) for b in budgets], **style)
        by_rate.plot(
          settings.rates,
          [m.cosine(budget) if m.tokens <= budget else np.nan for m in whole],
          marker=".",
          **style,
        )
        success = np.array(
          cells[f"learning/{problem}/{settings.start}/{name}"]["success"]
        )
        learning.plot(success.mean(0), label=name, **style)
      by_tokens.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="sampled tokens",
        title=f"{problem}\ncosine to the exact gradient, success {rate:.0%}",
      )
      by_rate.set(
        xscale="logit",
        ylim=(0, 1.02),
        xlabel="success rate of the policy",
        title=f"cosine at {budget:,} tokens",
      )
      by_rate.set_xticks(settings.rates, [f"{r:.0%}" for r in settings.rates])
      by_rate.minorticks_off()
      learning.set(
        ylim=(0, 1.02),
        xlabel=f"updates of {settings.batch} responses' worth of tokens",
        title="success rate, mean of seeds",
      )
    handles, labels = axes[-1, -1].get_legend_handles_labels()
    figure.legend(
      handles, labels, ncol=4, fontsize="small", loc="outside lower center"
    )
    figure.savefig(path, dpi=85)
    plt.close(figure)
