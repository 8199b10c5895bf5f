"""Verifiers of several designs beside one another."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure

from pav_jax.reporting import plots, progress

# Group -> design -> measure -> value of each seed.
Table = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]

LABELS = {
  "auc_outcome": "AUC for the outcome",
  "auc_no_error": "AUC for no error so far",
  "corr_mc": "correlation with Monte-Carlo values",
  "corr_exact": "correlation with exact values",
  "ece_mc": "expected calibration error",
  "completions": "completions made",
}


def spread_of_designs(
  workdir: str | os.PathLike,
  table: Table,
  measures: Sequence[str] = ("corr_exact", "corr_mc", "auc_outcome"),
) -> pathlib.Path:
  """A panel for each group: means of designs as a line, seeds as points.

  Args:
    workdir: gets `scaling.png`.
    table: what was measured.
    measures: the first of these that there is is shown.

  Raises:
    ValueError: if none of the measures is there.
  """
  first = next(iter(next(iter(table.values())).values()))
  shown = [name for name in measures if name in first]
  if not shown:
    raise ValueError(f"measures are {list(first)}, expected one of {measures}")
  path = pathlib.Path(workdir) / "scaling.png"
  with matplotlib.rc_context(plots.STYLE):
    drawn = mpl_figure.Figure(figsize=(3.2 * len(table), 3.2))
    axes = drawn.subplots(1, len(table), sharey=True, squeeze=False)[0]
    for ax, (group, designs) in zip(axes, table.items(), strict=True):
      at = np.arange(len(designs))
      values = [np.asarray(of[shown[0]]) for of in designs.values()]
      ax.plot(at, [x.mean() for x in values], "-", color="C0")
      for x, seeds in zip(at, values, strict=True):
        ax.plot(np.full(len(seeds), x), seeds, ".", color="C0", alpha=0.5)
      ax.set_xticks(at, designs.keys(), rotation=30, ha="right")
      ax.set_title(group)
    axes[0].set_ylabel(LABELS.get(shown[0], shown[0]))
    drawn.savefig(path)
  return path


def print_tables(experiment: str, table: Table) -> None:
  """For each group a line a design: mean and half the spread over seeds."""
  for group, designs in table.items():
    names = list(next(iter(designs.values())))
    progress.table(
      f"{experiment}: {group}",
      ["", *names],
      [
        [
          design,
          *(
            f"{np.mean(found[name]):.4g} ± {np.ptp(found[name]) / 2:.2g}"
            for name in names
          ),
        ]
        for design, found in designs.items()
      ],
    )
