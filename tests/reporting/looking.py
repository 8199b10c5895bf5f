"""What is seen in a figure."""

import itertools

import numpy as np
from matplotlib import colors, text


def words(figure):
  """All that is written in a figure, in one line."""
  written = [x.get_text() for x in figure.findobj(text.Text)]
  return " | ".join(x.replace("\n", " ") for x in written if x)


def names(panel):
  """What stands at the ends of lines: name -> annotation."""
  return {
    x.get_text().replace("\n", " "): x
    for x in panel.texts
    if x.xycoords == "data" and x.arrow_patch is not None
  }


def overlapping(figure):
  """Pairs of names in a figure that cover one another."""
  figure.draw_without_rendering()
  boxes = [
    (name, text.Text.get_window_extent(x))
    for panel in figure.axes
    for name, x in names(panel).items()
  ]
  return [
    (a, b)
    for (a, one), (b, other) in itertools.combinations(boxes, 2)
    if one.overlaps(other)
  ]


def colour(artist):
  """As #rrggbb."""
  return colors.to_hex(artist.get_color())


def data(line):
  """Points of a line, without those that are not finite."""
  xy = np.asarray(line.get_xydata(), float)
  return xy[np.isfinite(xy).all(-1)].tolist()
