"""What all figures share: colours of arms, names at the ends of their lines.

Steps of few traces are faded, and what a mark means is said in words.
"""

import collections
import contextlib
import pathlib
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import ticker

STYLE = {
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.grid": True,
  "axes.titlesize": "medium",
  "figure.titlesize": "medium",
  "grid.alpha": 0.3,
  "figure.constrained_layout.use": True,
  "legend.frameon": False,
  "savefig.dpi": 130,
}
Numbers = Sequence | np.ndarray
FEW_TRACES = 20
_SIZE = 8  # of names, in points
FADED = 0.25
FADED_SAYS = f"faded: steps with fewer than {FEW_TRACES} traces"

# Of Okabe and Ito, and more of their kind, which differ to colour-blind eyes
# too. What is compared everywhere has its own, and its kind with it.
_COLOURS = {
  "best of N": "#0072B2",
  "outcome": "#0072B2",
  "natural_outcome": "#0072B2",
  "beam": "#D55E00",
  "pav": "#D55E00",
  "PAV": "#D55E00",
  "progress": "#D55E00",
  "beam, Bo4": "#CC79A7",
  "beam, Q alone": "#E69F00",
  "majority": "#009E73",
  "weighted majority": "#7A9A01",
  "exact": "#009E73",
  "natural_exact": "#009E73",
  "verifier": "#E69F00",
  "advantage": "#CC79A7",
  "value": "#8B5A2B",
  "adaptive": "#56B4E9",
  "adaptive_by_bound": "#56B4E9",
  "own_completions": "#5E4FA2",
  "greedy": "#666666",
  "training": "#666666",
  "validation": "#0072B2",
  "start": "#000000",
  "samples": "#0072B2",
}
_OTHERS = (
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#8B5A2B",
  "#5E4FA2",
  "#7A9A01",
  "#A50F5B",
)
_DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = "osD^vP"


class Figure(mpl_figure.Figure):
  """A figure that belongs to no global state.

  Attributes:
    names: panel -> what to write beside the ends of its lines: names, ends and
      looks.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.names: dict[Any, list] = {}


@contextlib.contextmanager
def figure(
  path: pathlib.Path, width: float | int, height: float | int
) -> Iterator[Figure]:
  """A figure that is written when the block ends, lines' names last.

  It grows where there are more names than fit.

  Args:
    path: of the PNG file.
    width: in inches, as is the height.
    height: of it.
  """
  with matplotlib.rc_context(STYLE):
    drawn = Figure(figsize=(width, height))
    yield drawn
    layout = drawn.get_layout_engine()
    layout.execute(drawn)
    heights = [
      _line_height(panel) * sum(text.count("\n") + 1 for text, *_ in names)
      for panel, names in drawn.names.items()
    ]
    if (most := max(heights, default=0)) > 1:
      drawn.set_figheight(most * drawn.get_figheight())
      layout.execute(drawn)
    for panel, names in drawn.names.items():
      _write_names(panel, names)
    drawn.savefig(path)


def colour(name: str) -> str:
  """An arm's colour, which its name alone decides.

  What is known has its own; `beam, …` that of beams, and so for each kind.
  """
  pinned = _COLOURS.get(name) or _COLOURS.get(name.split(",")[0])
  return pinned or _OTHERS[zlib.crc32(name.encode()) % len(_OTHERS)]


def looks(
  names: Iterable[str], *, marks: bool = False
) -> dict[str, dict[str, Any]]:
  """Colours, and dashes that tell apart those who share one.

  Args:
    names: of lines.
    marks: gives them markers too, which differ.
  """
  used: collections.Counter[str] = collections.Counter()
  out = {}
  for i, name in enumerate(names):
    of = colour(name)
    dashes = _DASHES[used[of] % len(_DASHES)]
    out[name] = {"color": of, "linestyle": dashes}
    if marks:
      out[name]["marker"] = _MARKERS[i % len(_MARKERS)]
    used[of] += 1
  return out


def apart(wanted: Numbers, gaps: Numbers) -> np.ndarray:
  """Heights in [0, 1] nearest to those wanted that keep gaps between them.

  Least squares, by pooling what would overlap.

  Args:
    wanted: ascending.
    gaps: between neighbours, one less; gaps too large for [0, 1] are kept, and
      then the last heights are above 1.
  """
  below = np.concatenate([[0.0], np.cumsum(gaps)])
  blocks: list[tuple[float, int]] = []
  for height in np.asarray(wanted, np.float64) - below:
    block = (height, 1)
    while blocks and blocks[-1][0] > block[0]:
      mean, number = blocks.pop()
      total = number + block[1]
      block = ((mean * number + block[0] * block[1]) / total, total)
    blocks.append(block)
  heights = np.repeat([x for x, _ in blocks], [n for _, n in blocks])
  return np.clip(heights, 0, max(0, 1 - below[-1])) + below


def name(
  panel: Any, said: str, end: tuple[Any, Any], look: Mapping[str, Any]
) -> None:
  """Has a name written beside the end of a line, when the figure is whole.

  Args:
    panel: of a `figure`.
    said: the name.
    end: x and y; without a finite one there is no line, and no name.
    look: of the line.
  """
  if np.isfinite(end).all():
    text = "\n".join(textwrap.fill(x, 28) for x in said.splitlines())
    panel.get_figure().names.setdefault(panel, []).append((text, end, look))


def _line_height(panel) -> float:
  """A line of a name, as a share of the panel's height."""
  pixels = 1.35 * _SIZE / 72 * panel.get_figure().dpi
  return pixels / panel.get_window_extent().height


def _write_names(panel, names) -> None:
  """Names from top to bottom, none over another, each with a thin line."""
  to_panel = panel.transData + panel.transAxes.inverted()
  wanted = np.clip([to_panel.transform(end)[1] for _, end, _ in names], 0, 1)
  order = np.argsort(wanted, kind="stable")
  lines = np.array([names[i][0].count("\n") + 1 for i in order])
  gaps = _line_height(panel) * (lines[1:] + lines[:-1]) / 2
  for i, height in zip(order, apart(wanted[order], gaps), strict=True):
    text, end, look = names[i]
    panel.annotate(
      text,
      end,
      xytext=(1.04, height),
      textcoords="axes fraction",
      color=look["color"],
      fontsize=_SIZE,
      va="center",
      annotation_clip=False,
      arrowprops={
        "arrowstyle": "-",
        "color": look["color"],
        "linestyle": look.get("linestyle", "-"),
        "linewidth": 0.6,
        "alpha": 0.7,
        "shrinkA": 1,
        "shrinkB": 1,
        "relpos": (0, 0.5),
      },
    )


def line(
  panel: Any,
  said: str,
  x: Numbers,
  y: Numbers,
  look: Mapping[str, Any],
  *,
  number: Numbers | None = None,
  **more: Any,
) -> bool:
  """A line with a name at its end; over steps, those of few traces faded.

  Args:
    panel: to draw in.
    said: its name; empty for none.
    x: of each point.
    y: of each, NaN for none.
    number: traces of each step; None if there are no steps.
    look: of the line.
    **more: of the line, not of its name.

  Returns:
    Whether any step is faded.
  """
  x, y = np.asarray(x), np.asarray(y, np.float64)
  few = np.zeros(len(y), bool)
  if number is not None:
    few = np.asarray(number) < FEW_TRACES
  faded = bool((few & np.isfinite(y)).any())
  if faded:
    panel.plot(x, y, alpha=FADED, **look, **more)
  panel.plot(x, np.where(few, np.nan, y), **look, **more)
  if said:
    name(panel, said, last(x, y), look)
  return faded


def last(x, y) -> tuple[float, float]:
  """The last finite point; NaN if there is none."""
  at = np.flatnonzero(np.isfinite(y))
  return (float(x[at[-1]]), float(y[at[-1]])) if len(at) else (np.nan, np.nan)


def percent(axis: Any) -> None:
  """Shares are written in %."""
  axis.set_major_formatter(ticker.PercentFormatter(1, symbol=" %"))


def say(figure: mpl_figure.Figure, *said: str) -> None:
  """A title in lines no longer than the figure; empty ones are left out."""
  width = int(13 * figure.get_figwidth())
  figure.suptitle("\n".join(textwrap.fill(x, width) for x in said if x))
