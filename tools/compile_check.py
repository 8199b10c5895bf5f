"""Compiles what an experiment runs, for a TPU slice that is not there.

python -m tools.compile_check --gin_file=FILE --topology=v5e:4x4
  [--spare=0.1] [--gin.NAME=VALUE …]

Exit status 0 if all programs fit, 1 if one does not, 2 for bad input. Instead
of a checkpoint's directory a preset's name will do, as in
--gin.POLICY='"gemma2_9b"', and instead of a problem --gin.PROBLEM='@Outline()',
which has sizes and no text (--gin.Outline.prompt_len=256, …).
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from pav_jax.cli.configuration import explain, parse_flags, parse_gin
from pav_jax.reporting import progress
from tools import compile_report, experiment_programs, tpu_topologies
from tools.abstract_arrays import bytes_per_device
from tools.compile_report import Report
from tools.compiled_programs import Program
from tools.tpu_topologies import Slice


def check(
  programs: Sequence[Program], slice_: Slice, *, spare: float = 0.0
) -> tuple[list[Report], int]:
  """Compiles programs, prints what they take; reports, and the exit status.

  Args:
    programs: of an experiment.
    slice_: that they are compiled for.
    spare: share of a chip's memory that is to be left.
  """
  reports = []
  for program in programs:
    progress.say(f"compiling {program.name} for {slice_.name} …")
    with tpu_topologies.quiet():
      reports.append(
        compile_report.measure(
          program.name,
          program.lower,
          hbm=slice_.chip.hbm,
          parts=_sizes(program.parts),
          beside=_sizes(program.beside),
          each=program.each,
        )
      )
  compile_report.print_table(reports, slice_.chip.clock)
  return reports, conclude(programs, reports, spare=spare)


def conclude(
  programs: Sequence[Program], reports: Sequence[Report], *, spare: float = 0.0
) -> int:
  """Says whether each program fits; the exit status, 1 if one does not."""
  for program, report in zip(programs, reports, strict=True):
    helps = remedies(program, report)
    progress.say(compile_report.verdict(report, spare=spare, remedies=helps))
  return int(not all(report.fits(spare) for report in reports))


def remedies(program: Program, report: Report) -> list[str]:
  """Settings that would make a program smaller, for the largest first."""
  arguments = {**report.parts, **report.beside}
  split = [name for name in report.contributors if name in arguments]
  larger = [
    "more devices on make_mesh.fsdp or make_mesh.tensor, on a larger slice if "
    f"need be, which split {' and '.join(split)}"
  ]
  smaller = list(program.remedies)
  first = next(iter(report.contributors), None)
  return larger + smaller if first in split else smaller + larger


def _sizes(parts) -> dict[str, int]:
  return {name: bytes_per_device(tree) for name, tree in parts.items()}


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
  """Flags, with every --gin.NAME=VALUE collected in `bindings`."""
  parser = argparse.ArgumentParser(
    prog="python -m tools.compile_check",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--gin_file", action="append", required=True)
  parser.add_argument("--topology", required=True, help="such as v5e:4x4")
  parser.add_argument(
    "--spare", type=float, default=0.0, help="share of memory to be left"
  )
  return parse_flags(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
  """Checks; gives the exit status."""
  flags = parse_arguments(sys.argv[1:] if arguments is None else arguments)
  logging.getLogger("absl").setLevel(logging.ERROR)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  try:
    if not 0 <= flags.spare < 1:
      raise ValueError(f"spare is {flags.spare}, expected a share in [0, 1)")
    parse_gin(flags.gin_file, flags.bindings)
    slice_ = tpu_topologies.describe(flags.topology)
    programs = experiment_programs.programs(slice_.devices)
    return check(programs, slice_, spare=flags.spare)[1]
  except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
    print(f"error: {explain(str(error))}", file=sys.stderr)
    return 2


if __name__ == "__main__":
  sys.exit(main())
