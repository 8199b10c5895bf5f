"""The figure of a fine-tuning run."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker

from pav_jax.reporting import drawing, plots


def summary(
  workdir: str | os.PathLike,
  loss: np.ndarray,
  steps: Sequence[int],
  validation: Mapping[str, Sequence[float]],
  report: Mapping[str, Any],
  *,
  window: int = 50,
) -> pathlib.Path:
  """Losses, accuracies and mistakes in one figure, `sft.png`.

  Args:
    workdir: where the file goes.
    loss: float[steps], of training batches, in nats a token.
    steps: train steps after which it was validated.
    validation: then `loss`, `accuracy` and `pass_at_k` of several k; lists.
    report: of the kept policy, from `training.validation.report`.
    window: train steps averaged.
  """
  path = pathlib.Path(workdir) / "sft.png"
  mistakes = report.get("mistakes")
  shares = {
    name.replace("pass_at_", "Pass@"): values
    for name, values in validation.items()
    if name == "accuracy" or name.startswith("pass_at_")
  }
  panels = 3 if mistakes else 2
  with drawing.figure(path, 4.8 * panels, 4) as figure:
    left, middle, *rest = figure.subplots(1, panels)
    plots.losses(left, loss, steps, validation["loss"], window)
    left.set(xlabel="train step", ylabel="nats a token", yscale="log")
    left.set_title("loss")
    left.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(ticker.ScalarFormatter())
    left.yaxis.set_minor_formatter(ticker.NullFormatter())
    dots = {"marker": "o", "markersize": 3}
    for name, look in drawing.looks(shares).items():
      drawing.line(middle, name, steps, shares[name], look, **dots)
    middle.set(xlabel="train step", ylabel="problems", ylim=(-0.02, 1.02))
    middle.set_title("validation problems solved")
    drawing.percent(middle.yaxis)
    for right in rest:
      _mistakes(right, mistakes["error_rates"])
    drawing.say(
      figure,
      "A policy while it is fine-tuned",
      f"grey: mean of {window} train steps; dots: validations",
    )
  return path


def _mistakes(panel: Any, rates: Mapping[str, Mapping[str, float]]) -> None:
  """How often each operation's result is wrong."""
  at = np.arange(len(rates))
  teacher, policy, error = (
    [rate[name] for rate in rates.values()]
    for name in ("teacher", "policy", "standard_error")
  )
  panel.bar(at - 0.2, teacher, 0.4, color="0.6")
  panel.bar(
    at + 0.2,
    policy,
    0.4,
    yerr=[2 * x for x in error],
    color=drawing.colour("validation"),
  )
  panel.set_xticks(at, list(rates))
  panel.set(xlabel="operation", ylabel="wrong results")
  panel.set_title(
    "mistakes of the teacher (grey) and the policy\n"
    "(blue, with two standard errors)"
  )
  drawing.percent(panel.yaxis)
