r"""Turns public step labels into a data set that verifiers are trained on.

  pav import-labels FORMAT SOURCE [SOURCE …] TARGET \
    --problem_file=gin/problems/math.gin --gin.VOCABULARY='"tokenizer.model"'

FORMAT is prm800k, math_shepherd or trl. TARGET becomes a data set of step
targets, for `--gin.DATA` of a verifier's run. The problem says how prompts are
written and which tokens there are; it has to be that of the policy whose
network the verifier begins with.
"""

import argparse
import functools
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import gin

from pav_jax.cli.arguments import Parser
from pav_jax.cli.configuration import explain, parse_flags, parse_gin

_FLAGS = {
  "prm800k": ("max_bad_lines", "neutral", "finish_reasons"),
  "math_shepherd": ("max_bad_lines",),
  "trl": ("max_bad_lines", "is_whole"),
}


@gin.register
def tokenized_as(problem: Any) -> Any:
  """What PROBLEM stands for in a gin file."""
  return problem


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
  """Flags, with every --gin.NAME=VALUE collected in `bindings`."""
  parser = Parser("pav import-labels", __doc__)
  parser.add_argument("format", choices=_FLAGS)
  parser.add_argument("source", nargs="+", help="files of this format")
  parser.add_argument("target", help="a new directory")
  parser.add_argument(
    "--problem_file", required=True, help="a gin file that binds PROBLEM"
  )
  parser.add_argument(
    "--num_shards", type=int, default=1, help="files of the data set"
  )
  parser.add_argument(
    "--max_bad_lines", type=int, help="so many are left out, with a warning"
  )
  parser.add_argument(
    "--neutral", help="prm800k: label of steps rated 0, 0 … 1 or none (1.0)"
  )
  parser.add_argument(
    "--finish_reasons", help="prm800k: lines to take, as solution,give_up"
  )
  parser.add_argument(
    "--is_whole",
    action="store_const",
    const=True,
    help="trl: responses end with their last step",
  )
  flags = parse_flags(parser, arguments)
  every = sorted(set().union(*_FLAGS.values()))
  flags.options = {
    name: getattr(flags, name) for name in every if getattr(flags, name)
  }
  if odd := set(flags.options) - set(_FLAGS[flags.format]):
    parser.error(
      f"--{min(odd)} is no option of {flags.format}, expected some of "
      f"{', '.join('--' + name for name in _FLAGS[flags.format])}"
    )
  return flags


def import_labels(flags: argparse.Namespace) -> str:
  """Reads, tokenizes and writes; gives the line that says what was done.

  Raises:
    ValueError: for a file that is not of its format, or as of `write`.
    OSError: for a file that cannot be read or written.
  """
  # What takes time to import is imported when settings are known to be right.
  parse_gin(
    [flags.problem_file], [*flags.bindings, "tokenized_as.problem = %PROBLEM"]
  )
  try:
    gin.query_parameter("PROBLEM/macro.value")
  except ValueError as error:
    raise ValueError(
      f"{flags.problem_file} binds no PROBLEM, expected a line "
      "PROBLEM = @NAME()"
    ) from error
  from pav_jax.data import (
    step_labels,
    step_labels_math_shepherd,
    step_labels_prm800k,
    step_labels_trl,
    step_targets_writer,
  )

  readers = {
    "prm800k": step_labels_prm800k.read,
    "math_shepherd": step_labels_math_shepherd.read,
    "trl": step_labels_trl.read,
  }
  options = dict(flags.options)
  if "neutral" in options:
    given = options["neutral"]
    options["neutral"] = None if given == "none" else float(given)
  if "finish_reasons" in options:
    options["finish_reasons"] = tuple(options["finish_reasons"].split(","))
  read = functools.partial(readers[flags.format], **options)
  traces = [trace for source in flags.source for trace in read(source)]
  problem = gin.get_configurable(tokenized_as)()
  targets = step_labels.to_targets(traces, problem)
  step_targets_writer.write(
    flags.target,
    targets,
    num_shards=flags.num_shards,
    config={
      "format": flags.format,
      "sources": [_identity(pathlib.Path(x)) for x in flags.source],
      "options": {name: repr(value) for name, value in options.items()},
      "problem": repr(problem),
    },
    fingerprint=problem.fingerprint,
    pad_id=problem.vocabulary.pad_id,
  )
  labels = int((targets.num_completions > 0).sum())
  problems = int(targets.problem_id.max()) + 1
  return (
    f"wrote {flags.target}: {len(traces)} responses to {problems} problems "
    f"with {labels} labels"
  )


def _identity(path: pathlib.Path) -> list[str]:
  return [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]


def main(arguments: Sequence[str] | None = None) -> int:
  """Imports; gives the exit status, 2 for bad input."""
  flags = parse_arguments(sys.argv[1:] if arguments is None else arguments)
  try:
    print(import_labels(flags))
  except (ValueError, TypeError, OSError, ImportError) as error:
    print(f"error: {explain(str(error))}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
