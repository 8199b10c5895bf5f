"""Accuracy and the terms of Theorem 3.1, by the strength of provers."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.reporting import drawing, seed_plots


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
  with drawing.figure(path, 8.4, 7.6) as figure:
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for panel, curves in (top, accuracy), (bottom, terms):
      for name, look in drawing.looks(curves).items():
        shares = panel is top
        seed_plots.points(
          panel, name, strengths, curves[name], look, shares=shares
        )
    top.set(ylabel="right responses", ylim=(-0.02, 1.02))
    top.set_title("accuracy averaged over training")
    drawing.percent(top.yaxis)
    bottom.set_xscale("log")
    bottom.set_yscale("log")
    bottom.set(xlabel="prover strength γ", ylabel="squared probability")
    bottom.set_title("terms of Theorem 3.1 at the policy before training")
    bottom.set_xticks(strengths, [f"{s:g}" for s in strengths])
    bottom.minorticks_off()
    drawing.say(
      figure,
      "What is learned from provers of each strength",
      seed_plots.POINTS_SAY,
    )
  return path
