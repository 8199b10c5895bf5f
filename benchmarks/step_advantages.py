"""Mean advantages of a chain policy's steps, by kind, under several provers.

  .venv/bin/python -m benchmarks.step_advantages POLICY --odds 4 \
    --verifier VERIFIER [VERIFIER ...]

What a policy that is trained with these rewards learns first. Restatements and
operations before the first error, and after it, where nothing helps and exact
values give 0; for Best-of-K with several K. POLICY is a directory that has been
fine-tuned with a teacher of these odds (chain_sft_onward.gin).
"""

import argparse

import jax
import numpy as np

from pav_jax import values
from pav_jax.models import hf
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain, harder, measured_values
from pav_jax.problems.chain.reading import NO_PROGRESS
from pav_jax.provers import verifier
from pav_jax.provers.rollout_values import ClosedForm, WellFormed, WithinLimit


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("policy")
  parser.add_argument("--verifier", nargs="*", default=())
  parser.add_argument("--odds", type=float, default=1)
  parser.add_argument("--problems", type=int, default=64)
  parser.add_argument("--samples", type=int, default=16)
  args = parser.parse_args()
  problem = Chain(operations=harder(args.odds))
  config, params = hf.load(args.policy)
  policy = language_model(config, problem)
  ids = problem.problem_ids("validation", 0, args.problems)
  rollout = policy.sample(
    params,
    jax.random.key(1),
    problem.prompts(ids),
    problem.prompt_lengths(ids),
    ids,
    num_samples=args.samples,
  )
  rollout = jax.tree.map(np.asarray, rollout)
  found = problem.steps(rollout)
  right, legal = found.right[:, :-1], found.legal[:, :-1]
  restates, operates = found.kind == NO_PROGRESS, found.kind >= 0
  values_of = {
    "exact values": ClosedForm(measured_values(problem, args.policy))
  }
  for path in args.verifier:
    values_of[path] = WellFormed(verifier.load(path), problem)
  provers = {
    name: WithinLimit(prover, problem) for name, prover in values_of.items()
  }
  for name, prover in provers.items():
    print(name)
    q = np.asarray(prover(None, rollout), np.float64)
    for k in (1, 16, 64, 256):
      gain = np.diff(np.asarray(values.best_of_k(q, k)), axis=1)
      shown = []
      for place, where in (("right", right), ("wrong", legal & ~right)):
        a, b = (gain[kind & where].mean() for kind in (restates, operates))
        shown.append(f"so far {place}: restated {a:+.4f}, operated {b:+.4f}")
      print(f"  K = {k:3}  {'; '.join(shown)}")


if __name__ == "__main__":
  main()
