import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import ProblemPolicy, language_model
from pav_jax.problems.chain import Chain
from pav_jax.training.evaluation import Evaluation, evaluate

PROBLEM = Chain(
  horizon=1, modulus=10, operations=Chain().operations[:1], rho=0.0
)
CONFIG = TransformerConfig(
  vocab_size=21,
  width=8,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_width=8,
  max_length=32,
)


class Forced(ProblemPolicy):
  """Answers sample s of problem i correctly iff (i + s) is a multiple of 3."""

  def sample(self, params, key, problem_id, first_sample=0, *, num_samples=1):
    del params, key, first_sample
    ids = np.repeat(problem_id, num_samples)
    sample_id = np.tile(np.arange(num_samples), len(problem_id))
    right = (ids + sample_id) % 3 == 0
    responses = PROBLEM.answers(ids)
    # The result is the fifth token of `a+b=c` and the end token.
    integer = PROBLEM.vocabulary.first_integer
    wrong = integer + (responses[:, 4] - integer + 1) % 10
    responses[:, 4] = np.where(right, responses[:, 4], wrong)
    return PROBLEM.rollout(ids, responses, sample_id)


FORCED = Forced(language_model(CONFIG, PROBLEM), PROBLEM)


@pytest.mark.parametrize("rows_per_call", [1, 12, 1000])
def test_counts_do_not_depend_on_how_samples_are_divided_into_calls(
  rows_per_call,
):
  # Of samples 0 … 3 of problem i those with (i + s) % 3 == 0: 2 if 3 | i.
  ids = np.arange(7)
  found = evaluate(
    FORCED,
    {},
    jax.random.key(0),
    PROBLEM,
    ids,
    num_samples=4,
    rows_per_call=rows_per_call,
  )
  expected = [2 if i % 3 == 0 else 1 for i in ids]
  np.testing.assert_array_equal(found.num_correct, expected)
  assert found.accuracy == pytest.approx(10 / 28)
  assert found.num_tokens == 6 * 28
  # One operation a response, wrong in the 18 responses that are not correct.
  assert dict(found.mistakes.operations) == {"+": (28, 18)}


def test_pass_at_k_is_the_mean_of_unbiased_estimates():
  # Of 4 samples 2 or 0 correct: Pass@2 is 1 - C(2,2) / C(4,2) = 5/6, and 0.
  found = Evaluation(np.array([2, 0]), 4, num_tokens=1, seconds=1.0)
  assert found.pass_at_k(2) == pytest.approx(5 / 12)
  assert found.accuracy == found.pass_at_k(1) == 0.25
  # Problems are the unit: deviations of ±1/4 from the mean, over 2 problems.
  assert found.standard_error == pytest.approx(0.25)
  assert found.report([2])["pass_at_k"] == {"2": pytest.approx(5 / 12)}


def test_a_language_model_is_sampled_and_graded():
  # An untrained network is right about never; what matters is that every
  # response was graded and its tokens counted.
  policy = language_model(CONFIG, PROBLEM)
  params = policy.init(jax.random.key(0))
  ids = PROBLEM.problem_ids("test", 0, 3)
  found = evaluate(
    ProblemPolicy(policy, PROBLEM),
    params,
    jax.random.key(1),
    PROBLEM,
    ids,
    num_samples=2,
  )
  rollout = policy.sample(
    params,
    jax.random.key(1),
    PROBLEM.prompts(ids),
    np.full(3, PROBLEM.prompt_len),
    ids,
    num_samples=2,
  )
  lengths = rollout.prefix_len[:, -1] - rollout.prefix_len[:, 0]
  assert found.num_tokens == int(jnp.sum(lengths))
  np.testing.assert_array_equal(
    found.num_correct, PROBLEM.grade(rollout).reshape(3, 2).sum(-1)
  )


def test_bad_input():
  with pytest.raises(ValueError, match="there are no problems"):
    evaluate(
      FORCED,
      {},
      jax.random.key(0),
      PROBLEM,
      np.zeros(0, int),
      num_samples=1,
    )
  with pytest.raises(ValueError, match="num_samples is 0"):
    evaluate(
      FORCED,
      {},
      jax.random.key(0),
      PROBLEM,
      np.zeros(1, int),
      num_samples=0,
    )
