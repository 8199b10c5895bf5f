import warnings

import numpy as np

from pav_jax.reporting import drawing, fit_plots, sft_plots
from tests.reporting import looking

LOSS = np.linspace(0.7, 0.5, 20)


def test_draws_what_was_measured_and_passes_over_what_was_not(tmp_path, drawn):
  def draw(**more):
    validation = {"iteration": [10, 20], "loss": [[0.7], [0.6]]}
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      path = fit_plots.summary(tmp_path, LOSS, validation | more)
    assert path == tmp_path / "verifier.png"
    return drawn.pop()

  loss, measures = draw(
    auc_outcome=[[0.6], [0.8]], ece_mc=[[None], [None]]
  ).axes
  assert set(looking.names(loss)) == {"training", "validation"}
  assert loss.get_ylabel() == "nats"
  assert looking.names(measures)["AUC for the outcome"].xy == (20, 0.8)
  assert len(looking.names(measures)) == 1
  whole = draw(auc_outcome=[[0.6], [0.8]], ece_mc=[[0.1], [None]])
  # Where a measure ends before the others its name stands there.
  names = looking.names(whole.axes[1])
  assert names["expected calibration error"].xy == (10, 0.1)
  assert "dots: validations" in looking.words(whole)
  assert not any(axes.get_legend() for axes in whole.axes)
  # Nothing is measured: there is no second panel.
  assert len(draw(ece_mc=[[None], [None]]).axes) == 1


def test_fine_tuning_with_and_without_mistakes(tmp_path, drawn):
  validation = {
    "loss": [0.7, 0.6],
    "accuracy": [0.1, 0.2],
    "pass_at_4": [0.3, 0.4],
    "tokens_per_second": [9.0, 9.0],
  }
  rate = {"teacher": 0.1, "policy": 0.2, "standard_error": 0.01}
  report = {"mistakes": {"error_rates": {"+": rate, "-": rate}}}
  for tested, panels in ((report, 3), ({}, 2)):
    path = sft_plots.summary(tmp_path, LOSS, [10, 20], validation, tested)
    assert path == tmp_path / "sft.png"
    figure = drawn.pop()
    assert len(figure.axes) == panels
    ends = {n: x.xy for n, x in looking.names(figure.axes[1]).items()}
    assert ends == {"accuracy": (20, 0.2), "Pass@4": (20, 0.4)}
    assert not any(axes.get_legend() for axes in figure.axes)
    said = looking.words(figure)
    assert "nats a token" in said and "dots: validations" in said
    assert ("teacher (grey)" in said) == (panels == 3)
    training, held_out = figure.axes[0].lines
    assert training.get_color() == drawing.colour("training")
    assert held_out.get_color() == drawing.colour("validation")
