"""Runs an experiment that a gin file describes.

python -m pav_jax.main --gin_file=FILE --workdir=DIR [--gin.NAME=VALUE …]

On several hosts all of them run the same command; `runs/hosts.py` says how each
finds out which it is. SIGTERM stops a run with exit status 0 and a checkpoint.
"""

import argparse
import logging
import pathlib
import sys
import traceback
from collections.abc import Sequence

import jax

from pav_jax.cli.arguments import Parser
from pav_jax.cli.configuration import explain, parse_flags, run_files
from pav_jax.packages import MissingPackageError
from pav_jax.reporting import progress
from pav_jax.runs import hosts
from pav_jax.runs.preemption import Preempted, interruptible


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
  """Flags, with every --gin.NAME=VALUE collected in `bindings`."""
  parser = Parser("python -m pav_jax.main", __doc__)
  parser.add_argument(
    "--gin_file", action="append", required=True, help="may be repeated"
  )
  parser.add_argument("--workdir", required=True, help="gets all results")
  parser.add_argument(
    "--debug", action="store_true", help="show tracebacks of errors"
  )
  return parse_flags(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs; gives the exit status: 2 for bad input, 1 for a run that failed."""
  flags = parse_arguments(sys.argv[1:] if arguments is None else arguments)
  logging.getLogger("absl").setLevel(logging.ERROR)
  try:
    status = _run(flags)
  except Exception:
    if not jax.distributed.is_initialized():
      raise
    traceback.print_exc()
    hosts.abandon(1)
  hosts.leave(status)
  return status


def _run(flags: argparse.Namespace) -> int:
  name = pathlib.Path(flags.gin_file[-1]).stem
  try:
    with interruptible():
      hosts.initialize()
      run_files(flags.gin_file, flags.bindings, flags.workdir, name)
  except KeyboardInterrupt as error:
    stopped = f" {explain(str(error))}" if str(error) else "interrupted"
    progress.say(f"{stopped.strip()}; the same command continues the run")
    return 130
  except Preempted as error:
    progress.say(f"{explain(str(error))}; the same command continues the run")
    return 0
  except (
    ValueError,
    TypeError,
    OSError,
    FloatingPointError,
    MissingPackageError,
  ) as error:
    if flags.debug:
      raise
    _complain(error)
    return 1 if isinstance(error, FloatingPointError) else 2
  except RuntimeError as error:
    if flags.debug or not str(error).startswith("Required bindings"):
      raise
    _complain(error)
    return 2
  return 0


def _complain(error: Exception) -> None:
  who = f" of process {jax.process_index()}" if hosts.several() else ""
  print(f"error{who}: {explain(str(error))}", file=sys.stderr)
