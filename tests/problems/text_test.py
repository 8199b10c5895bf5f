import dataclasses
import itertools

import jax
import numpy as np
import pytest

from pav_jax.problems import text
from pav_jax.problems.answer_groups import NO_ANSWER
from pav_jax.problems.base import SPLITS
from pav_jax.problems.chain import Chain, Operation
from pav_jax.problems.countdown import Countdown

PROBLEMS = [Chain(horizon=3), Countdown(), Countdown(num_numbers=6)]
each_problem = pytest.mark.parametrize(
  "problem", PROBLEMS, ids=["chain", "countdown4", "countdown6"]
)

# Tokens 0 padding, 1 end, 2 and 3 end steps, 9 is out of the table.
ENDS_STEP = np.array([0, 0, 1, 1, 0, 0], bool)


def lengths(tokens, prompt_len, num_steps=None):
  return text.prefix_lengths(
    np.array([tokens]),
    np.array([prompt_len]),
    ENDS_STEP,
    eos_id=1,
    pad_id=0,
    num_steps=num_steps,
  )[0].tolist()


@pytest.mark.parametrize(
  ("tokens", "prompt_len", "num_steps", "want"),
  [
    ([4, 2, 4, 2, 5, 1, 0], 2, None, [2, 4, 6]),  # delimiters of prompts
    ([4, 2, 4, 2, 5, 1, 0], 0, 4, [0, 2, 4, 6, 6]),  # and of an empty one
    ([4, 4, 2, 1, 4, 2, 4], 1, None, [1, 3, 4]),  # end as an empty step
    ([4, 4, 2, 5, 0, 4, 2], 1, 3, [1, 3, 4, 4]),  # cut off, before padding
    ([4, 4, 2, 5, 4, 4, 4], 1, None, [1, 3, 7]),  # cut off at the row's end
    ([4, 4, 2, 5, 4, 4, 3], 1, None, [1, 3, 7]),  # or ended by a delimiter
    ([4, 2, 3, 2, 4, 1, 0], 1, None, [1, 2, 3, 4, 6]),  # empty steps
    ([4, 2, 3, 2, 4, 1, 0], 1, 2, [1, 2, 6]),  # no room: the last takes all
    ([4, 9, -1, 2, 4, 1, 0], 1, None, [1, 4, 6]),  # ids of no vocabulary
    ([4, 4, 0, 0, 0, 0, 0], 2, 2, [2, 2, 2]),  # no response
    ([4, 1, 0, 2, 1, 0, 0], 3, None, [3, 4, 5]),  # end within the prompt
  ],
)
def test_prefix_lengths_by_hand(tokens, prompt_len, num_steps, want):
  assert lengths(tokens, prompt_len, num_steps) == want


@pytest.mark.parametrize(("prompt_len", "num_steps"), [(8, 1), (1, 0)])
def test_prefix_lengths_of_impossible_rows(prompt_len, num_steps):
  with pytest.raises(ValueError, match="expected"):
    lengths([4] * 7, prompt_len, num_steps)


@each_problem
def test_splits_share_no_problem(problem):
  # As sets of prompts, and with another seed too; numbers of countdown in any
  # order are one problem.
  def prompts(split, seed):
    other = dataclasses.replace(problem, seed=seed)
    rows = other.prompts(other.problem_ids(split, 0, 1500))
    if isinstance(problem, Countdown):
      end = 2 * problem.num_numbers
      rows[:, :end:2] = np.sort(rows[:, :end:2], -1)
    return set(map(bytes, rows))

  sets = [[prompts(split, seed) for seed in (0, 1)] for split in SPLITS]
  for one, two in itertools.combinations(sets, 2):
    for a, b in itertools.product(one, two):
      assert not a & b
  # Seeds are not one another's copies.
  assert len(sets[0][0] - sets[0][1]) > 1000


@each_problem
def test_ids_are_unique_and_address_the_problem(problem):
  ids = [problem.problem_ids(split, 0, 400) for split in SPLITS]
  assert len(np.unique(ids)) == 1200
  every = np.concatenate(ids)
  want = problem.prompts(every)
  assert want.shape == (1200, problem.prompt_len) and want.dtype == np.int32
  order = np.random.default_rng(0).permutation(len(every))[:300]
  np.testing.assert_array_equal(problem.prompts(every[order]), want[order])


@each_problem
def test_examples_resume_and_shard(problem):
  def rows(*args, **kwargs):
    found = problem.examples(*args, **kwargs)
    return [(i, p.tolist(), a.tolist()) for i, p, a in found]

  want = rows("validation", 0, 700)
  assert len(want) == 700
  assert rows("validation", 613, 700) == want[613:]  # begun anew anywhere
  ids = problem.problem_ids("validation", 0, 700)
  assert [i for i, _, _ in want] == ids.tolist()
  np.testing.assert_array_equal([p for _, p, _ in want], problem.prompts(ids))
  np.testing.assert_array_equal([a for _, _, a in want], problem.answers(ids))
  # Host h has the numbers h modulo the number of hosts, from wherever.
  for start in (0, 5):
    parts = [
      rows("validation", start, 700, host=h, num_hosts=3) for h in range(3)
    ]
    for h in range(3):
      assert parts[h] == [want[i] for i in range(start, 700) if i % 3 == h]
  endless = problem.examples("train")
  assert len(list(itertools.islice(endless, 600))) == 600


@each_problem
def test_demonstrations_depend_on_their_ids_alone(problem):
  ids = np.repeat(problem.problem_ids("train", 0, 100), 3)
  samples = np.tile(np.arange(3), 100)
  want = problem.demonstrations(ids, samples)
  order = np.random.default_rng(1).permutation(300)[:50]
  got = problem.demonstrations(ids[order], samples[order])
  jax.tree.map(
    np.testing.assert_array_equal, got, jax.tree.map(lambda x: x[order], want)
  )
  other = dataclasses.replace(problem, seed=3).demonstrations(ids, samples)
  assert (other.tokens != want.tokens).any(-1).mean() > 0.9
  assert len(np.unique(want.tokens, axis=0)) > 150  # samples differ


@each_problem
def test_demonstrations_are_rollouts(problem):
  ids = problem.problem_ids("test", 0, 200)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  width = problem.prompt_len + problem.max_response_len
  assert rollout.tokens.shape == (200, width)
  assert rollout.prefix_len.shape == (200, problem.max_steps + 1)
  assert rollout.tokens.dtype == rollout.prefix_len.dtype == np.int32
  assert (rollout.prefix_len[:, 0] == problem.prompt_len).all()
  vocabulary = problem.vocabulary
  for tokens, prefix_len, problem_id, outcome in zip(
    rollout.tokens, rollout.prefix_len, ids, rollout.outcome, strict=True
  ):
    # Steps by splitting text, which is right here as tokens are characters.
    response = tokens[problem.prompt_len : prefix_len[-1]]
    lines = vocabulary.decode(response).removesuffix("<end>").split("\n")
    size = [len(vocabulary.encode(line)) + 1 for line in lines]
    steps = np.diff(prefix_len)
    assert steps[steps > 0].tolist() == size
    assert (tokens[prefix_len[-1] :] == vocabulary.pad_id).all()
    answer = problem.answers(np.array([problem_id]))[0]
    assert problem.is_correct(response, answer) == outcome


@each_problem
def test_grades_never_raise(problem):
  ids = problem.problem_ids("train", 0, 300)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  answers = problem.answers(ids)
  responses = rollout.tokens[:, problem.prompt_len :]
  rng = np.random.default_rng(2)
  size = problem.vocabulary.vocab_size
  for row in range(300):
    length = int(rng.integers(0, 2 * problem.max_response_len))
    noise = rng.integers(-3, size + 3, length)
    # No random tokens are a solution: 6 in a row fit with 1e-12.
    assert problem.is_correct(noise, answers[row]) == 0
    assert problem.is_correct(noise.tolist(), answers[row]) == 0
    # One token altered, which gets any line in trouble.
    spoilt = responses[row].copy()
    spoilt[rng.integers(len(spoilt))] = rng.integers(-(2**31), 2**31)
    assert problem.is_correct(spoilt, answers[row]) in (0, 1)
  noise = rng.integers(-3, size + 3, responses.shape)
  keep = rng.random(responses.shape) < 0.9
  mixed = problem.rollout(
    ids, np.where(keep, responses, noise), np.zeros_like(ids), num_steps=2
  )
  for row in range(300):
    response = mixed.tokens[row, problem.prompt_len :]
    assert problem.is_correct(response, answers[row]) == mixed.outcome[row]
  # Correct ones are not dead anywhere; a whole response is one or the other.
  dead = problem.dead_prefixes(mixed)
  assert not dead[mixed.outcome == 1].any()
  # Padding cuts a response short, so an end token behind it does not count.
  ended = mixed.tokens[np.arange(300), mixed.prefix_len[:, -1] - 1] == 1
  np.testing.assert_array_equal(dead[ended, -1], mixed.outcome[ended] == 0)
  # Death is for ever.
  assert (np.diff(dead.astype(int), axis=-1) >= 0).all()


@each_problem
def test_padding_that_a_policy_drew_is_a_mistake_and_no_end(problem):
  """A response of three steps, with padding in the second one."""
  ids = problem.problem_ids("test", 0, 4)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  prefix_len = rollout.prefix_len[:, :4].copy()
  prefix_len[:, 3] = rollout.prefix_len[:, -1]
  tokens = rollout.tokens.copy()
  rows = np.arange(len(tokens))
  tokens[rows, prefix_len[:, 1]] = problem.vocabulary.pad_id
  drawn = dataclasses.replace(rollout, tokens=tokens, prefix_len=prefix_len)
  assert not problem.grade(drawn).any()
  before = problem.dead_prefixes(
    dataclasses.replace(rollout, prefix_len=prefix_len)
  )
  dead = problem.dead_prefixes(drawn)
  np.testing.assert_array_equal(dead[:, :2], before[:, :2])
  assert dead[:, 2:].all()
  legal = problem.well_formed(drawn)
  assert legal[:, :2].all() and not legal[:, 2:].any()


@each_problem
def test_bad_requests(problem, no_shape_checks):
  for args in (("dev", 0, 1), ("train", 3, 3), ("test", -1, 4)):
    with pytest.raises(ValueError, match="expected"):
      problem.examples(*args)
  with pytest.raises(ValueError, match="host is 2"):
    problem.examples("train", 0, 9, host=2, num_hosts=2)
  with pytest.raises(ValueError, match="problem_id and sample_id"):
    problem.demonstrations(np.arange(3), np.arange(2))
  rollout = problem.demonstrations(np.arange(3), np.arange(3))
  within = dataclasses.replace(rollout, prefix_len=rollout.prefix_len[:, :2])
  within.prefix_len[:, 1] -= 1
  with pytest.raises(ValueError, match="within a step"):
    problem.dead_prefixes(within)
  with pytest.raises(ValueError, match="prompts have"):
    problem.dead_prefixes(
      dataclasses.replace(rollout, prefix_len=rollout.prefix_len[:, 1:])
    )
  with pytest.raises(ValueError, match="answer has shape"):
    problem.is_correct([1], [1, 2, 3])


def test_settings_that_leave_a_split_empty():
  # One operand: modulo 2 there are 2 problems for 3 splits.
  problem = Chain(
    horizon=1, modulus=2, operations=(Operation("+", low=1, high=1),)
  )
  with pytest.raises(ValueError, match="allow more problems"):
    for split in SPLITS:
      problem.prompts(problem.problem_ids(split, 0, 1))


def test_fingerprints_follow_the_vocabulary():
  # Chain modulo 100 and countdown to 99 have the same tokens.
  assert Chain().fingerprint == Chain(horizon=2).fingerprint
  assert Chain().fingerprint == Countdown().fingerprint
  assert Chain().fingerprint != Chain(modulus=99).fingerprint


@each_problem
def test_settings_are_hashable_and_rollouts_may_be_on_devices(problem):
  # As static arguments need it; caches kept on the object do not count.
  copy = dataclasses.replace(problem)
  ids = problem.problem_ids("train", 0, 20)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  assert hash(problem) == hash(copy) and problem == copy
  on_device = jax.tree.map(jax.numpy.asarray, rollout)
  np.testing.assert_array_equal(problem.grade(on_device), rollout.outcome)
  np.testing.assert_array_equal(
    problem.dead_prefixes(on_device), problem.dead_prefixes(rollout)
  )


def test_final_answers_are_what_stands_before_the_end():
  problem = Chain(horizon=2, rho=0.0)
  ids = problem.problem_ids("test", 0, 4)
  demos = problem.demonstrations(ids, np.zeros(4, np.int32))
  tokens = demos.tokens.copy()
  tokens[3, -1] = 5  # cut off
  answers = problem.final_answers(dataclasses.replace(demos, tokens=tokens))
  values = problem.steps(demos).value[:, -1]
  first = problem.vocabulary.first_integer
  assert answers[:3].tolist() == (first + values[:3]).tolist()
  assert answers[3] == NO_ANSWER
  # Nor has a response that ends at once.
  tokens[2, problem.prompt_len] = problem.vocabulary.eos_id
  bare = demos.prefix_len[:, :1] + np.array([[0, 1, 1]])
  answers = problem.final_answers(
    dataclasses.replace(demos, tokens=tokens, prefix_len=bare)
  )
  assert answers[2] == NO_ANSWER
