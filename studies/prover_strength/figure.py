"""Accuracy and the terms of Theorem 3.1, by the strength of provers."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from pav_jax.reporting import plots


def prover_strengths(
  workdir: str | os.PathLike,
  strengths: Sequence[float],
  accuracy: Mapping[str, np.ndarray],
  terms: Mapping[str, np.ndarray],
) -> pathlib.Path:
  """Accuracy over training, and Theorem 3.1's terms; `provers.png`.

  Args:
    workdir: where the file goes.
    strengths: γ of the provers.
    accuracy: update -> float[strengths, seeds], averaged over training.
    terms: term of the theorem -> float[strengths, seeds].
  """
  path = pathlib.Path(workdir) / "provers.png"
  with plt.rc_context(plots.STYLE):
    figure, (top, bottom) = plt.subplots(
      2, 1, figsize=(6.4, 6.4), sharex=True, height_ratios=(3, 2)
    )
    for name, values in accuracy.items():
      plots.points(top, strengths, values, name)
    top.set(ylabel="accuracy averaged over training", ylim=(-0.02, 1.02))
    top.set_title("line: mean of seeds; points: seeds", fontsize="medium")
    top.legend()
    for name, values in terms.items():
      plots.points(bottom, strengths, values, name)
    bottom.set_xscale("log")
    bottom.set_yscale("log")
    bottom.set(
      xlabel="prover strength γ", ylabel="Theorem 3.1, at the SFT policy"
    )
    bottom.set_xticks(strengths, [f"{s:g}" for s in strengths])
    bottom.minorticks_off()
    bottom.legend()
    figure.savefig(path)
    plt.close(figure)
  return path
