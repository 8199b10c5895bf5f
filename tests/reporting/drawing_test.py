import pathlib

import numpy as np
import pytest
from matplotlib import colors

from pav_jax.reporting import drawing
from tests.reporting import looking

FILE = pathlib.Path("x.png")  # which is not written


def test_a_name_has_its_colour_whoever_is_beside_it():
  few = drawing.looks(["pav", "sgd γ=3"])
  more = drawing.looks(["sgd γ=1", "outcome", "sgd γ=3", "exact", "pav"])
  for name, look in few.items():
    assert look["color"] == more[name]["color"] == drawing.colour(name)
  assert drawing.colour("outcome") != drawing.colour("pav")
  # A kind has its colour, and what is compared within it another.
  assert drawing.colour("progress, verifier") == drawing.colour("pav")
  assert drawing.colour("beam, own policy") == drawing.colour("beam")
  assert drawing.colour("beam, Bo4") != drawing.colour("beam")


def test_those_who_share_a_colour_differ_in_dashes_or_marks():
  names = [f"arm {i}" for i in range(20)]
  looks = drawing.looks(names)
  assert len({tuple(map(str, look.values())) for look in looks.values()}) == 20
  marked = drawing.looks(names[:6], marks=True)
  assert len({look["marker"] for look in marked.values()}) == 6


@pytest.mark.parametrize(
  "wanted, gaps, got",
  [
    ([0.1, 0.5, 0.9], [0.2, 0.2], [0.1, 0.5, 0.9]),
    ([0.5, 0.5], [0.2], [0.4, 0.6]),  # each moves as far
    ([1.0, 1.0], [0.1], [0.9, 1.0]),  # no higher than the panel
    ([0.0, 0.0, 0.9], [0.1, 0.1], [0.0, 0.1, 0.9]),  # nor lower
    # The mean of .4, .5 - .2 and .6 - .4 is .3.
    ([0.4, 0.5, 0.6], [0.2, 0.2], [0.3, 0.5, 0.7]),
    ([0.3, 0.4], [1.5], [0.0, 1.5]),  # what does not fit goes on above
  ],
)
def test_heights_are_moved_as_little_as_keeps_gaps(wanted, gaps, got):
  np.testing.assert_allclose(drawing.apart(wanted, gaps), got, atol=1e-12)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_stand_at_their_lines_and_none_covers_another(drawn, scale):
  ends = {
    f"an arm of some length, number {i}": 0.95 + i / 1e3 for i in range(9)
  }
  ends |= {"low": 0.01, "a name so long that it takes some lines, α 0.3": 0.02}
  with drawing.figure(FILE, 7, 3.4) as figure:
    axes = figure.subplots()
    axes.set(ylim=(0.009, 1), yscale=scale)
    for name, y in (ends | {"nowhere": np.nan}).items():
      look = {"color": drawing.colour(name)}
      drawing.line(axes, name, [1, 2], [y, y], look)
    drawing.say(figure, "A title", "and more of it")
  assert drawn == [figure]
  named = looking.names(axes)
  assert set(named) == set(ends)
  assert not looking.overlapping(figure)
  whole = figure.get_tightbbox()
  # None is cut off, and there are more of them than 3.4 inches would hold.
  assert whole.width <= 7 and 3.4 < whole.height <= figure.get_figheight()
  for name, text in named.items():
    assert text.xy == (2, ends[name])
    assert text.get_color() == drawing.colour(name)
  heights = [named[name].xyann[1] for name in sorted(ends, key=ends.get)]
  assert heights == sorted(heights)  # leaders do not cross


def test_a_line_ends_at_its_last_number(drawn):
  with drawing.figure(FILE, 5, 4) as figure:
    axes = figure.subplots()
    drawing.line(axes, "a", [1, 2, 3], [0.1, 0.2, np.nan], {"color": "red"})
  assert looking.names(axes)["a"].xy == (2, 0.2)


def test_steps_of_few_traces_are_faded(drawn):
  with drawing.figure(FILE, 5, 4) as figure:
    axes = figure.subplots()
    look = {"color": "#0072b2"}
    number = [100, 20, 19, 3]
    assert drawing.line(
      axes, "a", range(4), [0.1, 0.2, 0.3, 0.4], look, number=number
    )
    assert not drawing.line(axes, "b", range(2), [1, 1], look, number=[50, 20])
    # None of the few has a number.
    assert not drawing.line(
      axes, "c", range(2), [1, np.nan], look, number=[50, 1]
    )
  faded, clear, *_ = axes.lines
  assert faded.get_alpha() == drawing.FADED < 0.5 and clear.get_alpha() is None
  assert len(looking.data(faded)) == 4
  assert looking.data(clear) == [[0, 0.1], [1, 0.2]]
  assert len(axes.lines) == 4
  assert str(drawing.FEW_TRACES) in drawing.FADED_SAYS


def test_titles_are_no_wider_than_the_figure(drawn):
  with drawing.figure(FILE, 4, 3) as figure:
    figure.subplots()
    drawing.say(figure, "word " * 40, "", "more")
  figure.draw_without_rendering()
  title = figure._suptitle
  assert title.get_window_extent().width < figure.bbox.width
  assert title.get_text().endswith("\nmore") and "\n\n" not in title.get_text()


def test_known_colours_differ_for_colour_blind_eyes():
  # Deuteranopes keep lightness and the blue-yellow axis.
  seen = np.array([[0.3, 0.6, 0.1], [-0.5, -0.5, 1]])
  names = ("outcome", "pav", "exact", "start", "verifier")
  found = [seen @ colors.to_rgb(drawing.colour(name)) for name in names]
  for i, one in enumerate(found):
    for other in found[:i]:
      assert np.abs(one - other).max() > 0.1
