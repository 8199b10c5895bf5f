import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import colors

from pav_jax import verification
from pav_jax.reporting import calibration_plots, drawing, value_plots
from tests.reporting import looking

RNG = np.random.default_rng(0)
B, P = 600, 6
OUTCOME = (np.arange(B) % 3 == 0).astype(np.float32)
MASK = np.arange(P) < RNG.integers(2, P + 1, (B, 1))
Q = np.clip(RNG.random((B, P)) * 0.6 + 0.3 * OUTCOME[:, None], 0, 1)
Q[~MASK] = np.nan  # what does not exist must not be drawn
FIGURES = {
  "reliability": lambda d: calibration_plots.reliability(
    d, {"a": Q, "b": Q**2}, OUTCOME[:, None], MASK
  ),
  "value_traces": lambda d: value_plots.value_traces(d, Q, OUTCOME, MASK),
  "value_distribution": lambda d: value_plots.value_distribution(
    d, Q, OUTCOME, MASK
  ),
  "auc_by_step": lambda d: value_plots.auc_by_step(
    d, {"a": Q[0], "b": Q[1]}, {"a": {"+": Q[2], "*": Q[3]}}
  ),
  "ece": lambda d: value_plots.by_step(d, "ece", {"a": Q[0]}, ylabel="ECE"),
}


@pytest.fixture
def draw(drawn, tmp_path):
  """A function's figure."""

  def draw(function, *args, **kwargs):
    function(tmp_path, *args, **kwargs)
    return drawn.pop()

  return draw


@pytest.mark.parametrize("name", FIGURES)
def test_files_are_written_and_no_figure_stays(tmp_path, name):
  path = FIGURES[name](tmp_path)
  assert path == tmp_path / f"{name}.png"
  pixels = matplotlib.image.imread(path)[..., :3]
  colourful = np.ptp(pixels, axis=-1) > 0.25
  assert colourful.sum() > 100
  assert plt.get_fignums() == []


def test_reliability_points_are_the_curves(draw):
  got = draw(
    calibration_plots.reliability,
    {"a": Q},
    OUTCOME[:, None],
    MASK,
    num_bins=4,
    most_panels=4,
  )
  # Of the prefixes 0 … 5, four evenly: 0, 5/3, 10/3 and 5, rounded.
  for axes, step in zip(got.axes, (0, 2, 3, 5), strict=True):
    kept = MASK[:, step]
    q, y = Q[kept, step], OUTCOME[kept]
    points = axes.collections[-1].get_offsets()
    # By hand: the bin of rank r among n is the whole part of 4 r / n.
    index = 4 * np.argsort(np.argsort(q)) // len(q)
    want = [(q[index == k].mean(), y[index == k].mean()) for k in range(4)]
    np.testing.assert_allclose(points, want, rtol=1e-5)
    gaps = [abs(a - b) * (index == k).mean() for k, (a, b) in enumerate(want)]
    name = f"step {step}" if step else "problem"
    assert axes.get_title() == f"{name} · ECE {sum(gaps):.3f}"


def test_traces_have_the_colour_of_their_outcome_and_end_where_they_end(draw):
  got = draw(value_plots.value_traces, Q, OUTCOME, MASK, most_traces=5)
  (axes,) = got.axes
  thin = [line for line in axes.lines if line.get_linewidth() == 0.8]
  rows = [*np.flatnonzero(OUTCOME == 0)[:5], *np.flatnonzero(OUTCOME == 1)[:5]]
  for line, row in zip(thin, rows, strict=True):
    np.testing.assert_array_equal(line.get_ydata(), Q[row, MASK[row]])
    blue = OUTCOME[row] == 1
    color = value_plots.CORRECT if blue else value_plots.WRONG
    assert line.get_color() == color
  thick = [line for line in axes.lines if line.get_linewidth() == 3]
  for line, correct in zip(thick, (0, 1), strict=True):
    of = np.where((correct == OUTCOME)[:, None] & MASK, Q, np.nan)
    np.testing.assert_allclose(line.get_ydata(), np.nanmean(of, 0))
  assert thick[0].get_linestyle() != thick[1].get_linestyle()


def test_shares_and_quantiles_of_values(draw):
  got = draw(value_plots.value_distribution, Q, OUTCOME, MASK, num_bins=5)
  top, bottom = got.axes
  for i, correct in enumerate((1, 0)):
    of = MASK & (correct == OUTCOME)[:, None]
    heights = [bar.get_height() for bar in top.patches[5 * i : 5 * i + 5]]
    want = [
      np.mean((Q[of] >= k / 5) & ((Q[of] < (k + 1) / 5) | (k == 4)))
      for k in range(5)
    ]
    np.testing.assert_allclose(heights, want)
    medians = np.nanmedian(np.where(of, Q, np.nan), 0)
    np.testing.assert_allclose(bottom.lines[i].get_ydata(), medians)


def test_one_outcome_alone_and_steps_that_nobody_has(draw):
  mask = MASK & (np.arange(P) < 4)
  wrong = np.zeros(B, np.float32)
  got = draw(value_plots.value_distribution, Q, wrong, mask)
  assert got.axes[1].lines[0].get_xdata().tolist() == [0, 1, 2, 3]
  got = draw(calibration_plots.reliability, {"a": Q}, wrong[:, None], mask)
  assert len([axes for axes in got.axes if axes.get_title()]) == 4
  got = draw(value_plots.value_traces, Q, wrong, mask)
  thick = [x for x in got.axes[0].lines if x.get_linewidth() == 3]
  assert np.isnan(thick[1].get_ydata()).all()  # none is correct


def test_curves_by_step_are_what_was_given(draw):
  auc = verification.auc(Q, OUTCOME[:, None], MASK, axis=0)
  got = draw(value_plots.auc_by_step, {"a": auc, "b": Q[0]}, {"a": {"+": Q[1]}})
  pooled, within = got.axes
  np.testing.assert_array_equal(pooled.lines[0].get_ydata(), auc)
  np.testing.assert_array_equal(pooled.lines[1].get_ydata(), Q[0])
  np.testing.assert_array_equal(within.lines[0].get_ydata(), Q[1])
  np.testing.assert_array_equal(within.lines[1].get_ydata(), auc)
  assert set(looking.names(within)) == {"+", "all kinds"}
  assert set(looking.names(pooled)) == {"a", "b"}
  got = draw(
    value_plots.by_step,
    "error",
    {str(i): np.full(P, float(i)) for i in range(12)},
    ylabel="error",
  )
  (axes,) = got.axes
  looks = {
    (x.get_color(), x.get_linestyle(), x.get_marker()) for x in axes.lines
  }
  assert len(looks) == 12
  assert set(looking.names(axes)) == {str(i) for i in range(12)}


def test_outcomes_differ_in_lightness_or_hue_for_colour_blind_eyes():
  # Deuteranopes keep the blue-yellow axis: the two differ widely along it.
  blue, orange = (
    np.array(colors.to_rgb(c)) for c in (value_plots.CORRECT, value_plots.WRONG)
  )
  axis = np.array([-0.5, -0.5, 1])
  assert axis @ blue > 0.3 and axis @ orange < -0.3


def test_nothing_to_draw_is_refused(tmp_path):
  with pytest.raises(ValueError, match="q_hat is empty, expected"):
    calibration_plots.reliability(tmp_path, {}, OUTCOME[:, None], MASK)


def test_steps_of_few_traces_are_faded_and_it_is_said(draw):
  few = MASK & ((np.arange(P) < 3) | (np.arange(B) < 45)[:, None])
  number = few.sum(0)
  assert number[2] >= 20 > number[5]
  got = draw(calibration_plots.reliability, {"a": Q}, OUTCOME[:, None], few)
  alphas = [axes.collections[-1].get_alpha() for axes in got.axes[:P]]
  want = [1.0 if n >= 20 else drawing.FADED for n in number]
  assert alphas == want and drawing.FADED_SAYS in looking.words(got)
  curve = {"a": np.linspace(0.5, 0.9, P)}
  for function, more in (
    (value_plots.by_step, {"name": "ece", "ylabel": "ECE"}),
    (value_plots.auc_by_step, {}),
  ):
    if "name" in more:
      got = draw(function, more.pop("name"), curve, number=number, **more)
    else:
      got = draw(function, curve, number=number, **more)
    faded, clear = got.axes[0].lines[:2]
    assert faded.get_alpha() == drawing.FADED
    assert len(looking.data(clear)) == (number >= 20).sum() < P
    assert drawing.FADED_SAYS in looking.words(got)
  got = draw(value_plots.by_step, "ece", curve, ylabel="ECE")
  assert drawing.FADED_SAYS not in looking.words(got)
  wrong = np.zeros(B, np.float32)
  got = draw(value_plots.value_traces, Q, wrong, few)
  thick = [x for x in got.axes[0].lines if x.get_linewidth() == 3]
  assert thick[0].get_alpha() == drawing.FADED
  assert len(looking.data(thick[1])) == (number >= 20).sum()
  got = draw(value_plots.value_distribution, Q, wrong, few)
  bands = got.axes[1].collections
  assert {band.get_alpha() for band in bands} == {
    *(0.13, 0.25, 0.13 * drawing.FADED, 0.25 * drawing.FADED)
  }


def test_marks_have_words(draw):
  got = draw(value_plots.value_traces, Q, OUTCOME, MASK, title="a run")
  said = looking.words(got)
  for words in (
    "a run",
    "a dot where it ends",
    "right: mean of 200",
    "probability",
  ):
    assert words in said
  got = draw(
    calibration_plots.reliability, {"a": Q, "b": Q}, OUTCOME[:, None], MASK
  )
  said = looking.words(got)
  assert "two standard errors" in said and "marks: bins of prefixes" in said
  assert [x.get_text() for x in got.legends[0].get_texts()] == ["a", "b"]
