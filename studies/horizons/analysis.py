"""How much search gains, against the number of steps that a problem takes.

Reads the reports of comparisons of searches that differ in the horizon.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gin

from pav_jax.reporting import progress
from pav_jax.reporting.metrics import write_config, write_report
from pav_jax.runs.search_report import ORM
from studies.horizons import figure


def compare(
  report: Mapping[str, Any], method: str, sizes: Sequence[int]
) -> dict[str, Any]:
  """One comparison's method beside best-of-N.

  Args:
    report: as `runs.search.compare_searches` writes it.
    method: of the report.
    sizes: N, which both have.

  Returns:
    For each N: `accuracy` of the method, `best_of_n` and `standard_error` of
    both, and the paired gains `equal_n` and `equal_tokens`, each in [-1, 1]
    with its standard error; of equal tokens None beyond best-of-N's sizes.

  Raises:
    ValueError: if the report lacks the method or a size.
  """
  arms = report["arms"]
  for name in (method, ORM):
    if name not in arms:
      raise ValueError(f"the report has the methods {list(arms)}, not {name!r}")
    if missing := set(sizes) - set(arms[name]["n"]):
      raise ValueError(
        f"{name} has the sizes {arms[name]['n']}, not {sorted(missing)}"
      )
  found = {}
  for n in sizes:
    ours, theirs = (arms[name]["n"].index(n) for name in (method, ORM))
    found[str(n)] = {
      "accuracy": arms[method]["accuracy"][ours],
      "standard_error": arms[method]["standard_error"][ours],
      "best_of_n": arms[ORM]["accuracy"][theirs],
      "best_of_n_standard_error": arms[ORM]["standard_error"][theirs],
      "tokens": arms[method]["generated"][ours],
      "equal_n": arms[method]["equal_n"][ours],
      "equal_tokens": arms[method]["equal_tokens"][ours],
    }
  return found


@gin.register
def horizon_curve(
  workdir: str | os.PathLike,
  experiment: str,
  *,
  reports: Mapping[int, str],
  method: str = "beam, own policy",
  sizes: Sequence[int] = (1, 2, 4),
) -> dict[str, Any]:
  """Draws accuracy and gain against the horizon and writes the numbers.

  Args:
    workdir: gets report.json and horizons.png.
    experiment: its name, for the report.
    reports: horizon H -> report.json of a comparison of searches.
    method: that is compared with best-of-N.
    sizes: N.

  Returns:
    For each horizon what `compare` found.

  Raises:
    ValueError: if there is no report, or one lacks the method or a size.
  """
  if not reports or not sizes:
    raise ValueError(
      f"reports are {dict(reports)} and sizes {list(sizes)}, expected one or "
      "more of each"
    )
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  write_config(workdir)
  found = {
    str(horizon): compare(
      json.loads(pathlib.Path(reports[horizon]).read_text()), method, sizes
    )
    for horizon in sorted(reports)
  }
  drawn = figure.horizons(workdir, found)
  write_report(
    workdir / "report.json", experiment=experiment, arms=found, seconds=0.0
  )
  progress.table(
    f"{experiment}: {method} beside best-of-N, accuracy in %; gains in points "
    "± standard error",
    ["H", "N", "beam", "best-of-N", "equal N", "equal tokens"],
    [
      [
        horizon,
        n,
        f"{100 * x['accuracy']:.1f}",
        f"{100 * x['best_of_n']:.1f}",
        _gain(x["equal_n"]),
        _gain(x["equal_tokens"]),
      ]
      for horizon, sized in found.items()
      for n, x in sized.items()
    ],
  )
  progress.say(f"wrote {drawn}")
  return found


def _gain(estimate: Sequence[float] | None) -> str:
  if estimate is None:
    return "–"
  mean, error = estimate
  return f"{100 * mean:+.1f} ± {100 * error:.1f}"
