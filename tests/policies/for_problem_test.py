import numpy as np

from pav_jax.policies.for_problem import used_tokens
from pav_jax.problems.chain import Chain


def test_used_tokens_are_those_of_demonstrations_and_what_is_asked_for():
  # What 200 problems of the train split say, others say too.
  problem = Chain(horizon=2)
  kept = used_tokens(problem, num_demonstrations=200, also=(11, 11))
  ids = problem.problem_ids("validation", 0, 20)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  for tokens, length in zip(
    rollout.tokens, rollout.prefix_len[:, -1], strict=True
  ):
    assert set(tokens[:length].tolist()) <= set(kept.ids)
  vocabulary = problem.vocabulary
  assert {vocabulary.eos_id, vocabulary.pad_id, 11} <= set(kept.ids)
