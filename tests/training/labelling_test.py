import numpy as np
import pytest

from pav_jax.data import step_targets
from pav_jax.rollout import StepTargets
from pav_jax.training import labelling
from pav_jax.training.labelling import Labelling


def targets(n, c, prefix_len, outcome):
  rows = len(n)
  return StepTargets(
    tokens=np.zeros((rows, 12), np.int32),
    prefix_len=np.array(prefix_len, np.int32),
    num_completions=np.array(n, np.int32),
    num_correct=np.array(c, np.float32),
    outcome=np.array(outcome, np.float32),
    problem_id=np.arange(rows, dtype=np.int32),
    sample_id=np.zeros(rows, np.int32),
  )


# Two steps, the second trace one; the third prefix of the first is unlabelled.
FEW = targets(
  n=[[4, 2, 0], [8, 8, 0]],
  c=[[1, 1, 0], [8, 0, 0]],
  prefix_len=[[3, 5, 7], [3, 6, 6]],
  outcome=[1, 0],
)


def weights(given=FEW, **settings):
  return labelling.examples(given, Labelling(**settings))


def test_labels_are_fractions_and_only_known_prefixes_count():
  found = weights(balanced=False)
  np.testing.assert_allclose(found.label, [[0.25, 0.5, 0], [1, 0, 0]])
  # Four labels in two rows: a half each, so that rows sum to 1 on average.
  np.testing.assert_allclose(found.weight, [[0.5, 0.5, 0], [0.5, 0.5, 0]])


def test_binomial_counts_completions():
  # The log-likelihood of c in n is n times that of c / n: 4, 2, 8, 8 of 22.
  found = weights(balanced=False, likelihood="binomial")
  expected = np.array([[4, 2, 0], [8, 8, 0]]) * 2 / 22
  np.testing.assert_allclose(found.weight, expected, rtol=1e-6)


def test_entries_past_the_end_never_count():
  past = targets(
    n=[[4, 4, 4]], c=[[1, 2, 2]], prefix_len=[[0, 6, 6]], outcome=[1]
  )
  # Neither do empty prefixes, which have no scoring token.
  np.testing.assert_array_equal(weights(past).weight, [[0, 1, 0]])


def test_outcomes_are_single_completions_of_all_prefixes():
  found = weights(labels="outcome", balanced=False)
  np.testing.assert_array_equal(found.label, [[1, 1, 1], [0, 0, 0]])
  np.testing.assert_allclose(
    found.weight, 2 / 5 * np.array([[1] * 3, [1, 1, 0]])
  )
  unknown = targets(
    n=FEW.num_completions,
    c=FEW.num_correct,
    prefix_len=FEW.prefix_len,
    outcome=[np.nan, 0],
  )
  found = weights(unknown, labels="outcome", likelihood="binomial")
  np.testing.assert_array_equal(found.weight, [[0, 0, 0], [1, 1, 0]])


def test_an_outcome_model_sees_whole_responses_alone():
  found = weights(labels="outcome", prefixes="final")
  np.testing.assert_array_equal(found.weight, [[0, 0, 1], [0, 1, 0]])
  np.testing.assert_array_equal(found.label[found.weight > 0], [1, 0])


def test_what_follows_the_first_pit_is_left_out():
  n = [[4] * 5] * 3
  # High, then 0 at the third prefix: its label stays, those after go. A trace
  # that was never high has no pit, and a correct one neither.
  c = [[1, 2, 0, 0, 1], [1, 1, 0, 0, 0], [1, 4, 0, 4, 4]]
  prefix_len = [[2, 4, 6, 8, 10]] * 3
  given = targets(n, c, prefix_len, outcome=[0, 0, 1])
  found = weights(given, prefixes="until_pit", balanced=False)
  np.testing.assert_array_equal(
    found.weight > 0, [[1, 1, 1, 0, 0], [1] * 5, [1] * 5]
  )
  lower = weights(given, prefixes="until_pit", pit_high=0.25)
  np.testing.assert_array_equal(lower.weight[1] > 0, [1, 1, 1, 0, 0])


@pytest.mark.parametrize("likelihood", ["mean", "binomial"])
def test_balancing_is_class_balanced_sampling_in_expectation(likelihood):
  rng = np.random.default_rng(0)
  rows, prefixes = 30, 4
  n = rng.integers(0, 9, (rows, prefixes))
  c = rng.binomial(n, rng.choice([0.1, 0.2, 0.9], (rows, prefixes)))
  prefix_len = np.tile(np.arange(2, 2 + prefixes), (rows, 1))
  given = targets(n, c, prefix_len, np.zeros(rows))
  found = weights(given, likelihood=likelihood)
  loss = rng.normal(size=n.shape)  # of any kind

  # Class-balanced sampling: a bucket is drawn with probability one half, then
  # a pair of it, or with the binomial likelihood a completion of it.
  label = c / np.maximum(n, 1)
  mass = n if likelihood == "binomial" else n > 0
  expected = np.mean(
    [
      np.average(loss[bucket], weights=mass[bucket])
      for bucket in ((n > 0) & (label < 0.5), (n > 0) & (label >= 0.5))
    ]
  )
  # Batches of 5 traces in an epoch of 6: every trace once.
  means = []
  for step in range(6):
    batch = step_targets.batch_rows(rows, batch_size=5, seed=3, step=step)
    means.append((found.weight * loss)[batch].sum(-1).mean())
  np.testing.assert_allclose(np.mean(means), expected, rtol=1e-5)


def test_steps_to_imitate_are_those_that_still_led_to_a_correct_answer():
  prefix_len = [[2, 4, 6, 8], [2, 4, 6, 8], [2, 4, 6, 6], [2, 4, 6, 8]]
  given = targets(
    n=[[4, 4, 4, 4], [4, 4, 4, 4], [4, 4, 4, 0], [0, 0, 0, 0]],
    c=[[1, 1, 0, 0], [2, 0, 1, 0], [0, 0, 4, 0], [0, 0, 0, 0]],
    prefix_len=prefix_len,
    outcome=[0, 0, 1, 1],
  )
  # Row 0: after one step some completion was correct, after two none. Row 1:
  # luck of the draw made 0 of the second prefix, and the third shows that it
  # was alive. Row 2 has two steps. Row 3: only its outcome is known.
  np.testing.assert_array_equal(
    weights(given).imitated, [[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]]
  )
  np.testing.assert_array_equal(
    weights(given, imitated="all").imitated,
    [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]],
  )


def test_one_bucket_alone_has_all_the_weight():
  low = targets([[4, 4]], [[1, 0]], [[2, 4]], [0])
  np.testing.assert_allclose(weights(low).weight, [[0.5, 0.5]])


def test_data_without_a_label_is_refused():
  with pytest.raises(ValueError, match="none of 2 prefixes of 1 traces"):
    weights(targets([[0, 0]], [[0, 0]], [[2, 4]], [0]))


@pytest.mark.parametrize(
  "setting, message",
  [
    ({"labels": "mc"}, "labels is 'mc', expected one of"),
    ({"prefixes": "some"}, "prefixes is 'some'"),
    ({"likelihood": "beta"}, "likelihood is 'beta'"),
    ({"pit_high": 0.0}, "pit_high is 0.0"),
    ({"imitated": "some"}, "imitated is 'some'"),
  ],
)
def test_bad_settings(setting, message):
  with pytest.raises(ValueError, match=message):
    Labelling(**setting)
