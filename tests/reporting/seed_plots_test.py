import pathlib

import numpy as np
import pytest

from pav_jax.reporting import drawing, seed_plots
from tests.reporting import looking

FILE = pathlib.Path("x.png")  # which is not written


@pytest.mark.parametrize(
  "values, middle",
  [
    ([0.0, 0.02, 0.98, 1.0], 0.5),
    ([0.1, 0.9, np.nan], 0.5),
    ([0.5, 0.6, 0.69], None),  # no gap of 0.2
    ([0.0, 0.3, 0.6], None),  # no gap above half of the range
    ([0.0, 0.31, 0.6], 0.155),
    ([0.7], None),
    ([np.nan, np.nan], None),
  ],
)
def test_seeds_part_at_a_gap_of_more_than_half_of_the_range(values, middle):
  assert seed_plots.parting(values) == (middle and pytest.approx(middle))


def test_how_many_are_above_is_said():
  some = seed_plots.seeds_above([0.0, 1.0, 0.9, np.nan])
  assert some == ":\n2 of 4 seeds above 45 %"
  assert seed_plots.seeds_above([0.9, 1.0]) == ""


def draw(curves, **more):
  look, parted = drawing.looks(curves), seed_plots.parted_arms(curves)
  with drawing.figure(FILE, 7, 4) as figure:
    axes = figure.subplots()
    said = seed_plots.arms(axes, curves, look, parted, **more)
  return axes, said


# Seeds in columns: two learn, and two never.
TWO_GROUPS = np.array([[0.0, 0.0, 0.0, 0.0], [0.9, 1.0, 0.0, 0.1]])
ONE_GROUP = np.array([[0.0, 0.2], [0.8, 0.9]])


def test_seeds_of_two_groups_have_a_line_each_and_no_mean(drawn):
  axes, said = draw({"outcome": TWO_GROUPS, "pav": ONE_GROUP}, shares=True)
  *seeds, mean = axes.lines
  assert [line.get_ydata().tolist() for line in seeds] == TWO_GROUPS.T.tolist()
  assert all(line.get_linewidth() < mean.get_linewidth() for line in seeds)
  assert mean.get_ydata().tolist() == pytest.approx([0.1, 0.85])
  assert len(axes.collections) == 1  # the band, of pav
  # 0.1 and 0.9 are the gap's ends.
  assert set(looking.names(axes)) == {"outcome: 2 of 4 seeds above 50 %", "pav"}
  assert said == (
    "lines: means of 4 seeds, bands: least to most; thin lines: seeds of arms "
    "that part in two groups"
  )


def test_many_arms_have_no_bands_and_one_seed_no_words_of_means(drawn):
  axes, said = draw({f"arm {i}": ONE_GROUP for i in range(5)})
  assert not axes.collections and said == "lines: means of 2 seeds"
  axes, said = draw({"a": ONE_GROUP[:, :1]})
  assert not axes.collections and said == "one seed"


def test_what_is_missing_of_a_seed_is_left_out_of_the_mean(drawn):
  values = np.array([[0.2, np.nan], [0.3, 0.5], [np.nan, np.nan]])
  axes, _ = draw({"a": values})
  np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.2, 0.4, np.nan])
  assert looking.names(axes)["a"].xy == (2, 0.4)


def test_points_have_no_mean_between_two_groups(drawn):
  values = np.array([[0.0, 0.1, 0.1], [0.0, 0.9, 1.0]])
  with drawing.figure(FILE, 7, 4) as figure:
    axes = figure.subplots()
    look = {"color": "red"}
    seed_plots.points(axes, "sgd", [1, 2], values, look, shares=True)
  *dots, mean = axes.lines
  assert [line.get_ydata().tolist() for line in dots] == values.T.tolist()
  np.testing.assert_allclose(mean.get_ydata(), [0.2 / 3, np.nan])
  assert "2 of 3" in [text.get_text() for text in axes.texts]
  (name,) = looking.names(axes).items()
  assert name[0] == "sgd: 2 of 3 seeds above 45 %" and name[1].xy == (2, 1.0)
