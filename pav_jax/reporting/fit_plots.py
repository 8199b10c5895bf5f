"""The figure of a run that trains a verifier."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.reporting import drawing, plots

MEASURES = {
  "auc_outcome": "AUC for the outcome",
  "auc_no_error": "AUC for no error so far",
  "corr_mc": "correlation with Monte-Carlo values",
  "corr_exact": "correlation with exact values",
  "ece_mc": "expected calibration error",
}


def summary(
  workdir: str | os.PathLike,
  loss: np.ndarray,
  validation: Mapping[str, Sequence],
  *,
  window: int = 50,
) -> pathlib.Path:
  """Losses, and measures on validation traces, against steps; `verifier.png`.

  Args:
    workdir: where the file goes.
    loss: float[steps], of the values of training batches, in nats.
    validation: `iteration`, `loss` and other measures: lists, as
      `MetricsLog.rows` has them.
    window: train steps averaged.
  """
  path = pathlib.Path(workdir) / "verifier.png"
  columns = {
    name: np.array([x[0] if isinstance(x, list) else x for x in xs], float)
    for name, xs in validation.items()
  }
  at, held_out = columns.pop("iteration"), columns.pop("loss")
  measured = {
    MEASURES.get(name, name.replace("_", " ")): values
    for name, values in columns.items()
    if np.isfinite(values).any()
  }
  with drawing.figure(path, 11 if measured else 6, 4) as figure:
    left, *rest = figure.subplots(1, 1 + bool(measured), squeeze=False)[0]
    plots.losses(left, loss, at, held_out, window)
    left.set(xlabel="train step", ylabel="nats", title="loss of values")
    for right in rest:
      dots = {"marker": "o", "markersize": 3}
      for name, look in drawing.looks(measured).items():
        drawing.line(right, name, at, measured[name], look, **dots)
      right.set(xlabel="train step", ylabel="measure, 1 at most")
      right.set_title("on validation traces")
    drawing.say(
      figure,
      "A verifier while it is trained",
      f"grey: mean of {window} train steps; dots: validations",
    )
  return path
