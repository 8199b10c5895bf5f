"""Curves on a tracker of experiments, beside the files of a run.

`PAV_TRACKER=wandb` or `PAV_TRACKER=trackio` in the environment sends what
`metrics.jsonl` gets to Weights & Biases or to trackio, which has the same
interface; their own variables say where to and as whom.
"""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from pav_jax import packages

VARIABLE = "PAV_TRACKER"
PROJECT = "pav_jax"
_KNOWN = ("trackio", "wandb")


class Tracker:
  """A run of the tracker that the environment names, if it names one.

  The run begins with the first row and has the name of the work directory. A
  run that goes on after a kill may have rows twice.
  """

  def __init__(self, workdir: str | os.PathLike):
    """Checks that the tracker is there.

    Raises:
      ValueError: if the environment names another than these two.
      MissingPackageError: if its package is not installed.
    """
    self._name = os.environ.get(VARIABLE, "")
    self._workdir = pathlib.Path(workdir)
    self._run: Any = None
    if not self._name:
      return
    if self._name not in _KNOWN:
      raise ValueError(
        f"{VARIABLE} is {self._name!r}, expected one of {', '.join(_KNOWN)}"
      )
    packages.require_installed(
      self._name, package=self._name, purpose=f"{VARIABLE}={self._name}"
    )

  def log(
    self,
    arm: str,
    iteration: int,
    values: Mapping[str, float],
    config: Callable[[], str],
  ) -> None:
    """Adds a row as `arm/metric`, with its `iteration`.

    Args:
      arm: its name.
      iteration: counted from 1.
      values: by metric.
      config: gives the run's settings, which are kept with its first row.
    """
    if not self._name:
      return
    if self._run is None:
      module = packages.require(
        self._name, package=self._name, purpose=f"{VARIABLE}={self._name}"
      )
      self._run = module.init(
        project=PROJECT,
        name=self._workdir.resolve().name,
        config={"workdir": str(self._workdir), "gin": config()},
        resume="allow",
      )
    row = {f"{arm}/{name}": value for name, value in values.items()}
    self._run.log(row | {"iteration": iteration})

  def close(self) -> None:
    """Ends the run, if it has begun."""
    if self._run is not None:
      self._run.finish()
      self._run = None
