import numpy as np
import pytest

from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.search import costs

CONFIG = TransformerConfig(
  vocab_size=7,
  width=4,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=2,
  mlp_width=3,
  sliding_window=3,
  max_length=32,
)
NETWORK = VerifierConfig(CONFIG)
# Weights of a layer: query and out 4 · 4 each, key and value 4 · 2 each, and
# three of 4 · 3.
PARAMS = 2 * (16 + 16 + 8 + 8 + 36)


def by_hand(start, count, logits):
  """Token by token."""
  total = 0
  for position in range(start, start + count):
    seen = min(position + 1, 3) + position + 1  # local and global layer
    total += PARAMS + 2 * 4 * seen + (4 * 7 if logits else 0)
  return 2 * total


def test_counts_every_product():
  start = np.array([0, 0, 2, 5, 1])
  count = np.array([1, 6, 4, 0, 1])
  for logits in True, False:
    found = costs.pass_flops(CONFIG, start, count, logits=logits)
    want = [by_hand(*x, logits) for x in zip(start, count, strict=True)]
    np.testing.assert_array_equal(found, want)


def test_reading_in_parts_costs_as_much_as_at_once():
  whole = costs.pass_flops(CONFIG, np.array([0]), np.array([9]), logits=False)
  parts = costs.pass_flops(
    CONFIG, np.array([0, 4, 5]), np.array([4, 1, 4]), logits=False
  )
  assert parts.sum() == whole


def test_candidates_count_whether_they_are_kept_or_not():
  prompt_len = np.array([4])
  # Two rounds, one beam, three candidates; in the second one went on.
  start = np.array([[[[[4, 4, 4]]], [[[6, 0, 0]]]]])
  count = np.array([[[[[2, 3, 1]]], [[[5, 0, 0]]]]])
  cost = costs.of_problems(CONFIG, [NETWORK], prompt_len)
  cost += costs.of_steps(CONFIG, [NETWORK], start, count)
  assert cost.generated == [11] and cost.prefill == [4]
  assert cost.verifier_tokens == [15]
  steps = [(4, 2), (4, 3), (4, 1), (6, 5)]
  drawn = sum(by_hand(*step, True) for step in steps)
  read = sum(by_hand(*step, False) for step in steps)
  assert cost.policy_flops == [by_hand(0, 4, False) + drawn]
  assert cost.verifier_flops == [by_hand(0, 4, False) + read]
  assert cost.flops == cost.policy_flops + cost.verifier_flops
  assert cost.rows() == [
    {
      "generated": 11.0,
      "prefill": 4.0,
      "policy_flops": cost.policy_flops[0],
      "verifier_tokens": 15.0,
      "verifier_flops": cost.verifier_flops[0],
    }
  ]


def test_samples_share_their_problem():
  prompt_len, length = np.array([3]), np.array([[5, 9, 6, 4, 8]])
  one = costs.of_samples(CONFIG, [], prompt_len, length, 1)
  assert one.prefill == [3]
  assert one.generated[0] == pytest.approx((2 + 6 + 3 + 1 + 5) / 5)
  assert one.verifier_tokens == [0] and one.verifier_flops == [0]
  # Two groups of two; the fifth is in none.
  two = costs.of_samples(CONFIG, [NETWORK] * 2, prompt_len, length, 2)
  assert two.prefill == [3] and two.generated == [(2 + 6 + 3 + 1) / 2]
  assert two.verifier_tokens == [2 * (3 + 6)]
  every = costs.of_samples(CONFIG, [], prompt_len, length, 5)
  read = by_hand(0, 3, False)
  drawn = sum(by_hand(3, x - 3, True) for x in length[0])
  assert every.policy_flops == [read + drawn]


def test_a_reader_needs_the_trunks_logits():
  prompt_len, length = np.array([3]), np.array([[8]])
  cost = costs.of_samples(
    CONFIG, [VerifierConfig(CONFIG, 2)], prompt_len, length, 1
  )
  trunk = by_hand(0, 3, True) + by_hand(3, 5, True)
  reader = by_hand(0, 3, False) + by_hand(3, 5, False)
  assert cost.verifier_flops == [trunk + reader]
  assert cost.verifier_tokens == [8]
