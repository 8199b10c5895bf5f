"""Accuracy and gain of a search, by the number of steps."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from pav_jax.reporting import plots


def horizons(
  workdir: str | os.PathLike, found: Mapping[str, Mapping[str, Any]]
) -> pathlib.Path:
  """Accuracy and gain against the horizon, `horizons.png`.

  Args:
    workdir: where the file goes.
    found: horizon -> N -> numbers, from `analysis.compare`.
  """
  path = pathlib.Path(workdir) / "horizons.png"
  steps = [int(horizon) for horizon in found]
  sizes = list(next(iter(found.values())))
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4))
    for index, n in enumerate(sizes):
      numbers = [of_horizon[n] for of_horizon in found.values()]
      for name, error, line in (
        ("accuracy", "standard_error", "o-"),
        ("best_of_n", "best_of_n_standard_error", "s--"),
      ):
        axes[0].errorbar(
          steps,
          [x[name] for x in numbers],
          yerr=[x[error] for x in numbers],
          fmt=line,
          markersize=3,
          color=f"C{index}",
          label=f"{'beam' if name == 'accuracy' else 'best of N'}, N = {n}",
        )
      for name, line in (("equal_n", "o-"), ("equal_tokens", "^:")):
        gains = [x[name] or (np.nan, np.nan) for x in numbers]
        axes[1].errorbar(
          steps,
          [100 * gain for gain, _ in gains],
          yerr=[100 * error for _, error in gains],
          fmt=line,
          markersize=3,
          color=f"C{index}",
          label=f"{name.replace('_', ' ')}, N = {n}",
        )
    axes[0].set(xlabel="horizon H", ylabel="accuracy (bars: standard errors)")
    axes[0].set_ylim(0, 1)
    axes[1].set(xlabel="horizon H", ylabel="gain over best-of-N, points")
    axes[1].axhline(0, color="black", linewidth=0.6)
    for panel in axes:
      panel.set_xticks(steps)
      panel.legend(
        fontsize="x-small", ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1)
      )
    figure.savefig(path)
    plt.close(figure)
  return path
