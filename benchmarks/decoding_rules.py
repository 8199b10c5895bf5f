"""What a decoded token sends and moves under two ways to split a network.

PYTHONPATH=.venv/libtpu:. JAX_PLATFORMS=cpu python -m benchmarks.decoding_rules
  [--model=gemma2_2b] [--topology=v5e:4x4]

Compiles sampling at the sizes of `benchmarks/tpu_fit.py`, with the rules of
training and with `partitioning.DECODING_RULES`, and prints for both, per token
and chip, bytes sent to other chips, bytes moved to and from memory, and the
compiler's estimate of time. No TPU is needed, but libtpu, which
`launch/compile_check.sh` downloads.
"""

import argparse
import sys
from unittest import mock

from benchmarks import tpu_fit
from pav_jax.models import partitioning
from tools import compile_report, tpu_topologies
from tools.hlo_costs import Costs


def of_a_token(model: str, topology: str) -> tuple[Costs, float]:
  """Costs of one token on one chip, and cycles in a millisecond."""
  found = tpu_topologies.describe(topology)
  layout = tpu_fit.layout_of(found)
  program = tpu_fit.stages(model, layout)["sampling"]()
  with tpu_topologies.quiet():
    report = compile_report.measure(
      program.name,
      program.lower,
      hbm=found.chip.hbm,
      parts={},
      beside={},
      each=program.each,
    )
  if report.each_costs is None:
    sys.exit(f"{model} does not fit on {topology}")
  return report.each_costs, found.chip.clock / 1e3


def main(arguments: list[str] | None = None) -> int:
  """Compiles both and prints them."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.decoding_rules",
    description=__doc__.splitlines()[0],
  )
  parser.add_argument("--model", default="gemma2_2b")
  parser.add_argument("--topology", default="v5e:4x4")
  flags = parser.parse_args(arguments)
  print("| rules | sent, MB | moved, MB | estimate, ms |\n|---|---|---|---|")
  for name, rules in (
    ("training's", {}),
    ("decoding's", partitioning.DECODING_RULES),
  ):
    with mock.patch.object(partitioning, "DECODING_RULES", rules):
      costs, clock = of_a_token(flags.model, flags.topology)
    print(
      f"| {name} | {costs.sent_bytes / 1e6:,.0f} | "
      f"{costs.hbm_bytes / 1e6:,.0f} | {costs.cycles / clock:.1f} |",
      flush=True,
    )
  return 0


if __name__ == "__main__":
  sys.exit(main())
