"""The figure of a run that trains a verifier."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure

from pav_jax.reporting import plots


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
    name: [x[0] if isinstance(x, list) else x for x in xs]
    for name, xs in validation.items()
  }
  at = columns.pop("iteration")
  with matplotlib.rc_context(plots.STYLE):
    figure = mpl_figure.Figure(figsize=(8.6, 3.6))
    left, right = figure.subplots(1, 2)
    smooth = plots.trailing_mean(np.asarray(loss, np.float64)[:, None], window)
    left.plot(np.arange(1, len(loss) + 1), smooth[:, 0], label="training")
    left.plot(at, columns.pop("loss"), "o-", label="validation", markersize=3)
    left.set(xlabel="train step", ylabel="loss, nats")
    left.legend()
    for name, values in columns.items():
      values = np.array([np.nan if x is None else x for x in values])
      if np.isfinite(values).any():
        label = name.replace("_", " ").replace("auc", "AUC")
        right.plot(at, values, "o-", label=label, markersize=3)
    right.set(xlabel="train step", ylabel="on validation traces")
    right.legend(fontsize="small")
    figure.savefig(path)
  return path
