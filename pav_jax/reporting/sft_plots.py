"""The figure of a fine-tuning run."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from pav_jax.reporting import plots


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
  panels = 3 if mistakes else 2
  with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, panels, figsize=(4 * panels, 3.4))
    smooth = plots.trailing_mean(np.asarray(loss, np.float64)[:, None], window)
    axes[0].plot(np.arange(1, len(loss) + 1), smooth[:, 0], label="training")
    axes[0].plot(
      steps, validation["loss"], "o-", label="held out", markersize=3
    )
    axes[0].set(xlabel="train step", ylabel="nats a token", yscale="log")
    axes[0].legend()
    for name, values in validation.items():
      if name == "accuracy" or name.startswith("pass_at_"):
        label = name.replace("pass_at_", "Pass@")
        axes[1].plot(steps, values, "o-", label=label, markersize=3)
    axes[1].set(
      xlabel="train step", ylabel="share, validation", ylim=(-0.02, 1.02)
    )
    axes[1].legend()
    if mistakes:
      rates = mistakes["error_rates"]
      at = np.arange(len(rates))
      axes[2].bar(
        at - 0.2, [r["teacher"] for r in rates.values()], 0.4, label="teacher"
      )
      axes[2].bar(
        at + 0.2,
        [r["policy"] for r in rates.values()],
        0.4,
        yerr=[2 * r["standard_error"] for r in rates.values()],
        label="policy",
      )
      axes[2].set_xticks(at, list(rates))
      axes[2].set(xlabel="operation", ylabel="share of wrong results")
      axes[2].legend()
    figure.savefig(path)
    plt.close(figure)
  return path
