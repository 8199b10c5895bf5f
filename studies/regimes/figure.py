"""How many times fewer iterations progress takes, by start."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter, PercentFormatter, ScalarFormatter

from pav_jax.reporting import plots


def regimes(
  workdir: str | os.PathLike,
  found: Sequence[Mapping[str, Any]],
  names: Sequence[str],
) -> pathlib.Path:
  """How many times fewer iterations, and how far ahead, by start.

  Above against the accuracy reached, below against iterations.

  Args:
    workdir: where `regimes.png` goes.
    found: regimes in order of their start, as of `analysis.compare`.
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
