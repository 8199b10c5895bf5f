"""How many times fewer iterations progress takes, by start."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import NullFormatter, ScalarFormatter

from pav_jax.reporting import drawing


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
  colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(found)))
  with drawing.figure(path, 5.2 * len(names), 8) as figure:
    axes = figure.subplots(
      2, len(names), sharex="row", sharey="row", squeeze=False
    )
    for (above, below), name in zip(axes.T, names, strict=True):
      for regime, color in zip(found, colors, strict=True):
        label = f"from {100 * regime['start']:.2g} %"
        numbers, look = regime["arms"].get(name, {}), {"color": color}
        levels = sorted(
          (float(x), of) for x, of in numbers.get("levels", {}).items()
        )
        for x, of in levels:
          ratios = [r for r in of["ratios"] if r > 0]
          marker = "^" if of["is_bound"] else "."
          above.plot([x] * len(ratios), ratios, marker, color=color, alpha=0.5)
        if levels:
          y = [of["median"] for _, of in levels]
          drawing.line(above, label, [x for x, _ in levels], y, look)
        ahead = numbers.get("ahead", {})
        at = sorted(map(int, ahead))
        if at:
          y = [0.0, *(ahead[str(x)] for x in at)]
          drawing.line(below, label, [0, *at], y, look)
      above.axhline(1.0, color="black", linewidth=0.8)
      above.set(xscale="log", yscale="log", title=name)
      above.set_xlabel("accuracy reached")
      drawing.percent(above.xaxis)
      above.yaxis.set_major_formatter(ScalarFormatter())
      above.yaxis.set_minor_formatter(NullFormatter())
      above.set_yticks([1, 2, 3, 5, 10])
      below.axhline(0.0, color="black", linewidth=0.8)
      below.set_xlabel("iteration")
    axes[0, 0].set_ylabel("times fewer iterations than outcomes alone")
    axes[1, 0].set_ylabel("percentage points ahead of outcomes alone")
    drawing.say(
      figure,
      "What progress saves, by the accuracy that training starts from",
      "lines: medians of seeds above, means below; dots: seeds; triangles: "
      "seeds, where outcomes alone did not get there, so that it is more",
    )
  return path
