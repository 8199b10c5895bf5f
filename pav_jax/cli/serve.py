r"""Serves scores of steps over HTTP, as clients of vLLM's pooling want them.

  pav serve MODEL [--port 8000]

MODEL is the directory of a verifier, as a verifier's run writes it, or of a
public reward model, see docs/reward_models.md. SIGTERM and Ctrl-C stop it when
what it was asked is answered.

  curl localhost:8000/pooling -d \
    '{"input": {"problem": "1+1?", "steps": ["It is 2."]}}'

The extra `serve` has the web server.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Sequence

from pav_jax import packages
from pav_jax.cli.arguments import Parser
from pav_jax.cli.configuration import explain


def parser() -> argparse.ArgumentParser:
  """The command line."""
  made = Parser("pav serve", __doc__)
  made.add_argument("model", help="a directory")
  made.add_argument("--name", help="of the model, for clients; MODEL's own")
  made.add_argument("--host", default="127.0.0.1")
  made.add_argument("--port", type=int, default=8000)
  made.add_argument("--format", help="of a public model, if files do not tell")
  made.add_argument("--good", type=int, help="token of a good step")
  made.add_argument("--bad", type=int, help="token of a bad step")
  made.add_argument("--dtype", help="of computation, as bfloat16")
  made.add_argument(
    "--step_tokens",
    type=int,
    nargs="+",
    help="ids at which steps are scored; those of the model's joining",
  )
  made.add_argument(
    "--rows_per_call", type=int, default=32, help="sequences read at a time"
  )
  made.add_argument(
    "--max_waiting", type=int, default=1024, help="sequences that may wait"
  )
  made.add_argument(
    "--max_length", type=int, default=4096, help="tokens of a sequence, at most"
  )
  made.add_argument(
    "--kept_traces",
    type=int,
    default=32,
    help="sequences that are kept, so that they are read on from their ends",
  )
  made.add_argument(
    "--max_body", type=int, default=2**20, help="bytes of a request"
  )
  made.add_argument(
    "--patience", type=int, default=60, help="seconds for answers at the end"
  )
  return made


def served(flags: argparse.Namespace):
  """The model that the flags name, as a `step_requests.Served`.

  Raises:
    ValueError: as of the loaders of verifiers and public models.
  """
  from pav_jax.models import heads
  from pav_jax.provers import public, verifier
  from pav_jax.provers.trace_reader import TraceReader
  from pav_jax.runs.step_requests import Served

  path = pathlib.Path(flags.model)
  name = flags.name or path.resolve().name
  step_tokens = frozenset(flags.step_tokens or ())
  sizes = {"num_traces": flags.kept_traces, "max_length": flags.max_length}
  if (path / verifier.REST).exists():
    ours = verifier.load(path, dtype=flags.dtype)
    reader = TraceReader(
      ours.config, ours.params, ours.params["head"], heads.read, **sizes
    )
    return Served(name, reader, ours.config.trunk.vocab_size, step_tokens)
  model = public.load(
    path, flags.format, good=flags.good, bad=flags.bad, dtype=flags.dtype
  )
  tokenizer, join = model.tokenizer, None
  if tokenizer is not None and model.joining != public.AS_SAMPLED:
    join = functools.partial(model.joining, tokenizer)
    joined = join("1+1?", ["2"])
    step_tokens = step_tokens or {joined.tokens[joined.marks[0]]}
  return Served(
    name,
    model.trace_reader(**sizes),
    model.config.vocab_size,
    frozenset(step_tokens),
    encode=None if tokenizer is None else tokenizer.encode,
    join=join,
  )


def main(arguments: Sequence[str] | None = None) -> int:
  """Serves until it is stopped; gives the exit status, 2 for bad input."""
  flags = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
  try:
    server = packages.require("uvicorn", package="uvicorn", purpose="serving")
    from pav_jax.runs import step_requests, step_server

    limits = step_requests.Limits(
      max_body=flags.max_body,
      max_waiting=flags.max_waiting,
      rows_per_call=flags.rows_per_call,
      kept_traces=flags.kept_traces,
    )
    model = served(flags)
    app = step_server.application(model, limits)
  except (ValueError, OSError, ImportError) as error:
    print(f"error: {explain(str(error))}", file=sys.stderr)
    return 2
  print(
    f"{model.name} at http://{flags.host}:{flags.port}: keeps "
    f"{flags.kept_traces} traces of up to {model.reader.max_length} tokens, "
    f"{model.reader.num_bytes / 2**20:,.0f} MiB",
    flush=True,
  )
  server.run(
    app,
    host=flags.host,
    port=flags.port,
    log_level="warning",
    timeout_graceful_shutdown=flags.patience,
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
