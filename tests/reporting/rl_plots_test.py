import numpy as np
from matplotlib.colors import same_color

from pav_jax.reporting import drawing, rl_plots
from tests.reporting import looking


def test_an_arm_has_one_colour_though_others_lack_a_metric(tmp_path, drawn):
  arms = {
    "outcome": {"curves": {"length": [[1.0, 2.0]]}},
    "pav": {"curves": {"length": [[1.0, 3.0]], "score_gap": [[0.0, 0.1]]}},
  }
  metrics = ("length", "score_gap", "empty")
  rl_plots.curves(tmp_path, arms, metrics, "some.png", title="Signs")
  (figure,) = drawn
  length, gap, empty = figure.axes
  assert set(looking.names(length)) == {"outcome", "pav"}
  assert set(looking.names(gap)) == {"pav"}
  first, second = length.lines
  assert same_color(gap.lines[0].get_color(), second.get_color())
  assert not same_color(gap.lines[0].get_color(), first.get_color())
  assert not empty.axison  # which nobody has
  assert (length.get_ylabel(), gap.get_ylabel()[:11]) == (
    "tokens",
    "probability",
  )
  assert "Signs" in looking.words(figure) and not figure.legends


def arm(accuracy, **curves):
  curves["accuracy"] = accuracy
  return {
    "curves": curves,
    "validation": {
      "iteration": [[0, 20]] * len(accuracy),
      "accuracy": [[seed[0], seed[-1]] for seed in accuracy],
      "kl": [[0.0, 10 * seed[-1]] for seed in accuracy],
    },
    "pass_at_k": {k: [seed[-1] for seed in accuracy] for k in ("1", "4")},
  }


def test_nine_arms_keep_their_colours_and_names_in_every_figure(
  tmp_path, drawn
):
  names = ("pav", "exact", "verifier", "adaptive", "advantage", "value")
  names += ("own_completions", "natural_outcome")
  learns = [np.linspace(0, 0.98, 20).tolist()] * 4
  lost = [np.linspace(0, end, 20).tolist() for end in (0.9, 1.0, 0.0, 0.02)]
  arms = {name: arm(learns, length=learns, k=learns) for name in names}
  arms = {"outcome": arm(lost, length=lost)} | arms
  start = {"accuracy": 0.1, "pass_at_k": {"1": 0.1, "4": 0.3}}
  paths = rl_plots.write_all(tmp_path, arms, start)
  assert [path.stem for path in paths] == [
    *("accuracy", "pass_at_n", "held_out", "theorem", "probes")
  ]
  for figure in drawn:
    assert not figure.legends
    assert not looking.overlapping(figure)
    for panel in figure.axes:
      for name, text in looking.names(panel).items():
        assert text.get_color() == drawing.colour(name.split(":")[0])
  accuracy, kl = drawn[2].axes
  # 0.02 and 0.9 are the gap's ends.
  assert "outcome: 2 of 4 seeds above 46 %" in looking.names(accuracy)
  # Elsewhere too the seeds of that arm have a line each, and no mean.
  for panel in kl, drawn[4].axes[4]:
    blue = [
      x for x in panel.lines if x.get_color() == drawing.colour("outcome")
    ]
    assert [x.get_linewidth() for x in blue][:4] == [0.8] * 4
  assert looking.names(kl)["outcome"].xy == (20, 10)  # at the highest seed
  assert "thin lines: seeds" in looking.words(drawn[4])
