"""Verifiers of several designs beside one another."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.reporting import drawing, progress
from pav_jax.reporting.fit_plots import MEASURES

# Group -> design -> measure -> value of each seed.
Table = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]


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
  with drawing.figure(path, max(3.2 * len(table), 5.4), 4) as figure:
    axes = figure.subplots(1, len(table), sharey=True, squeeze=False)[0]
    look = {"color": drawing.colour("verifier"), "linestyle": "-"}
    for panel, (group, designs) in zip(axes, table.items(), strict=True):
      at = np.arange(len(designs))
      for x, of in zip(at, designs.values(), strict=True):
        seeds = np.asarray(of[shown[0]])
        panel.plot(np.full(len(seeds), x), seeds, ".", color=look["color"])
      means = [np.mean(of[shown[0]]) for of in designs.values()]
      panel.plot(at, means, **look)
      panel.set_xticks(at, designs.keys(), rotation=30, ha="right")
      panel.set(title=group, xlabel="design")
    what = MEASURES.get(shown[0], shown[0])
    axes[0].set_ylabel(f"{what}, 1 at most")
    drawing.say(
      figure,
      "Verifiers of several designs of data",
      "line: mean of seeds; dots: seeds",
    )
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
