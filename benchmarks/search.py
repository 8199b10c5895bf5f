"""How fast beam search is, and what kept caches are worth.

  .venv/bin/python benchmarks/search.py [--policy DIR] [--verifier DIR]

N = 16 beams, C = 3 candidates, 64 chain problems at once, three ways:

(a) `search`: problems are read once, steps are sampled behind kept caches, and
    the verifier reads each step behind its own;
(b) the same search, of which every round reads all prefixes again, and a
    verifier all traces from their beginning;
(c) as (a) for the policy, and the verifier as in (b).

Prints seconds, drawn tokens per second and whether traces are the same. Without
directories, networks are random and of the shapes that chain's experiments
have; a trace then goes on to its last step, and steps to their token limit.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np

from pav_jax.models import hf, partitioning, transformer
from pav_jax.models import value_network as network
from pav_jax.models.presets import preset
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.provers import base as provers
from pav_jax.provers import verifier as verifiers
from pav_jax.runs import hosts, networks
from pav_jax.search import cached_beams as searching
from pav_jax.search import stepping
from pav_jax.search.selection import Settings
from pav_jax.search.value_function import value_function


def random_verifier(trunk, params, layers):
  config = VerifierConfig(trunk, layers)
  params = network.init(config, params, jax.random.key(1))
  kernel = jax.random.normal(jax.random.key(2), (trunk.width,))
  params["head"] |= {"kernel": 0.3 * kernel}
  return verifiers.Verifier(params, config)


class Reread:
  """`stepping.sample_step` without caches: prefixes are read anew."""

  def __init__(self, policy, max_step_tokens):
    self.policy, self.max_step_tokens = policy, max_step_tokens
    self.sample = jax.jit(self._sample)

  def _sample(self, params, keys, state):
    shape = state.going.shape
    length = state.prefix_len[..., -1].reshape(-1)
    fresh = stepping.start(
      self.policy,
      params,
      None,
      state.tokens.reshape(len(length), -1),
      length,
      num_beams=1,
      width=state.tokens.shape[-1],
      max_step_tokens=self.max_step_tokens,
    )
    fresh = dataclasses.replace(
      state,
      policy_cache=fresh.policy_cache,
      num_read=fresh.num_read.reshape(shape),
      step_cache=fresh.step_cache,
    )
    return stepping.sample_step(self.policy, params, None, keys, fresh)

  def __call__(self, policy, params, keys, state):
    """Candidates and who has ended."""
    del policy
    return self.sample(params, keys, state)


def seconds_of(fn, repeats):
  """Least seconds of a call after one that compiles, and what it returns.

  Seconds on the clock and of all processors.
  """
  out, times = jax.device_get(fn()), []
  for _ in range(repeats):
    start, used = time.perf_counter(), time.process_time()
    out = jax.device_get(fn())
    times.append((time.perf_counter() - start, time.process_time() - used))
  return np.min(times, axis=0), out


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--policy", help="directory; random without")
  parser.add_argument("--verifier", help="directory; random without")
  parser.add_argument("--reader-layers", type=int, default=2)
  parser.add_argument("--problems", type=int, default=64)
  parser.add_argument("--beams", type=int, default=16)
  parser.add_argument("--step-tokens", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=2)
  args = parser.parse_args()

  problem = Chain()
  hosts.cores_as_devices()
  layout = networks.layout_of(None)
  if args.policy:
    config, params = hf.load(args.policy)
  else:
    config = preset("tiny", num_layers=2, width=96, mlp_width=384)
    params = transformer.init(config, jax.random.key(0))
  if args.verifier:
    verifier = verifiers.load(args.verifier, fingerprint=problem.fingerprint)
  else:
    verifier = random_verifier(config, params, args.reader_layers)
  policy = language_model(config, problem)
  if layout:
    params = partitioning.put(params, partitioning.replicated(layout.mesh))
    policy = dataclasses.replace(policy, layout=layout)
    verifier = provers.placed(verifier, layout)
  ids = problem.problem_ids("test", 0, args.problems)
  prompts = problem.prompts(ids)
  settings = Settings(num_beams=args.beams, num_steps=policy.max_steps)

  def search(values):
    return searching.search(
      policy,
      params,
      values,
      jax.random.key(0),
      prompts,
      np.full(len(ids), prompts.shape[1], np.int32),
      ids,
      settings=settings,
      alpha=0.5,
      max_step_tokens=args.step_tokens,
    )

  def report(name, values, first=None):
    seconds, found = seconds_of(lambda: search(values), args.repeats)
    tokens = int(found.count.sum())
    note = ""
    if first is not None:
      same = (first[1].rollout.tokens == found.rollout.tokens).all(-1)
      off = np.abs(first[1].q_policy - found.q_policy).max()
      note = (
        f"; (a) is {seconds[0] / first[0][0]:.1f} times as fast, "
        f"{seconds[1] / first[0][1]:.1f} by processor seconds; "
        f"{100 * same.mean():.1f} % of traces are the same, values differ by "
        f"{off:.1e} at most"
      )
    print(
      f"{name}: {seconds[0]:.2f} s, {seconds[1]:.2f} processor s, "
      f"{tokens / seconds[0]:,.0f} tokens/s "
      f"({tokens:,} drawn){note}",
      flush=True,
    )
    return seconds, found

  first = report("(a) kept caches", value_function(verifier))
  by_trace = value_function(verifier, by_trace=True)
  kept = searching._sample
  searching._sample = Reread(policy, args.step_tokens)
  report("(b) everything read again", by_trace, first)
  searching._sample = kept
  report("(c) traces read again by the verifier", by_trace, first)


if __name__ == "__main__":
  main()
