import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.models.presets import preset
from pav_jax.policies.for_problem import language_model
from pav_jax.problems.chain import Chain
from pav_jax.shards import Shards
from pav_jax.training import correct_responses

PROBLEM = Chain(
  horizon=2, modulus=4, operations=Chain().operations[:2], rho=0.0
)
IDS = PROBLEM.problem_ids("train", 0, 6)
POLICY = language_model(preset("tiny"), PROBLEM)


def demonstrate(ids, num_samples):
  """The noisy teacher's responses, each given twice in a row."""
  ids = np.repeat(ids, num_samples)
  return PROBLEM.demonstrations(ids, np.tile(np.arange(num_samples) // 2, 6))


def test_keeps_distinct_correct_responses(monkeypatch):
  sampled = demonstrate(IDS, 8)

  def sample(self, params, key, prompts, lengths, ids, *, num_samples):
    np.testing.assert_array_equal(prompts, PROBLEM.prompts(ids))
    return dataclasses.replace(
      jax.tree.map(lambda x: x[np.isin(sampled.problem_id, ids)], sampled)
    )

  monkeypatch.setattr(type(POLICY), "sample", sample)
  found = correct_responses.sample_correct(
    POLICY,
    {},
    jax.random.key(0),
    PROBLEM,
    num_problems=6,
    num_samples=8,
    rows_per_call=16,  # two problems a call
  )
  want = {
    (int(i), t.tobytes())
    for i, t, right in zip(
      sampled.problem_id, sampled.tokens, sampled.outcome, strict=True
    )
    if right
  }
  got = [
    (int(i), t.tobytes())
    for i, t in zip(found.problem_id, found.tokens, strict=True)
  ]
  assert len(got) == len(set(got)) and set(got) == want
  assert found.outcome.all()


def test_no_correct_response_is_an_error(monkeypatch):
  wrong = demonstrate(IDS, 8)
  wrong.tokens[:, -2] = 0
  monkeypatch.setattr(type(POLICY), "sample", lambda *a, **k: wrong)
  with pytest.raises(ValueError, match="none of 6 × 8 responses is correct"):
    correct_responses.sample_correct(
      POLICY, {}, jax.random.key(0), PROBLEM, num_problems=6, num_samples=8
    )


def test_batches_have_each_response_once_a_pass(tmp_path):
  clean = PROBLEM.clean().demonstrations(IDS, np.zeros_like(IDS))
  correct_responses.save(Shards(tmp_path, {"seed": 0}), clean)
  seeds = correct_responses.Seeds(str(tmp_path / "correct.npz"), 2, 20)
  position, seen = 0, []
  while position < 6:
    batch, position = seeds(position)
    seen += [
      row[mask].tolist()
      for row, mask in zip(batch.tokens, batch.loss_mask, strict=True)
    ]
  # A row of 20 has room for one text of 18; the responses alone are learnt.
  want = [
    row[n:end].tolist()
    for row, (n, *_, end) in zip(clean.tokens, clean.prefix_len, strict=True)
  ]
  assert sorted(seen) == sorted(want)
  # A position decides all that follows; another pass has another order.
  np.testing.assert_array_equal(seeds(2)[0].tokens, seeds(2)[0].tokens)
  first = [seeds(2 * i)[0].tokens for i in range(3)]
  second = [seeds(6 + 2 * i)[0].tokens for i in range(3)]
  assert not np.array_equal(first, second)
