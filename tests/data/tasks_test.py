import itertools

import numpy as np
import pytest

pytest.importorskip(
  "seqio", reason="seqio is not installed, as by default on Python 3.13"
)

from pav_jax.data import tasks
from pav_jax.problems import base
from pav_jax.problems.chain import Chain
from pav_jax.problems.countdown import Countdown
from pav_jax.problems.frameworks import seqio

CHAIN = Chain(horizon=3)


@pytest.fixture(autouse=True)
def registries():
  """Tasks are registered for one test."""
  yield
  seqio.TaskRegistry.reset()
  seqio.MixtureRegistry.reset()


def register(name="chain", problem=CHAIN, train=40, **settings):
  sizes = {"train": train, "validation": 10, "test": 10}
  return tasks.register(name, problem, num_problems=sizes, **settings)


def read(task, split="train", **options):
  options = {"shuffle": False, "num_epochs": 1} | options
  return list(task.get_dataset(split=split, **options).as_numpy_iterator())


def addresses(examples):
  return [(int(e["problem_id"]), int(e["sample_id"])) for e in examples]


@pytest.mark.parametrize("problem", [CHAIN, Countdown()], ids=["chain", "cd"])
def test_examples_are_the_problems_demonstrations(problem):
  task = register(problem=problem, num_samples=2)
  ids = problem.problem_ids("train", 0, 40)
  examples = read(task)
  assert addresses(examples) == [(i, s) for s in (0, 1) for i in ids]
  rollout = problem.demonstrations(
    np.tile(ids, 2), np.repeat([0, 1], 40).astype(np.int32)
  )
  for example, tokens, prefix_len in zip(
    examples, rollout.tokens, rollout.prefix_len, strict=True
  ):
    assert example["inputs"].dtype == example["targets"].dtype == np.int32
    np.testing.assert_array_equal(example["inputs"], tokens[: prefix_len[0]])
    np.testing.assert_array_equal(
      example["targets"], tokens[prefix_len[0] : prefix_len[-1]]
    )


def test_splits_are_disjoint():
  task = register()
  assert set(task.splits) == set(base.SPLITS)
  prompts = [
    {e["inputs"].tobytes() for e in read(task, split)} for split in base.SPLITS
  ]
  assert [len(p) for p in prompts] == [40, 10, 10]
  assert len(set().union(*prompts)) == 60
  assert [task.num_input_examples(s) for s in base.SPLITS] == [40, 10, 10]


@pytest.mark.parametrize("shuffle", [False, True])
def test_shards_are_disjoint_and_cover(shuffle):
  task = register(num_samples=2)
  shards = [
    addresses(
      read(task, shard_info=seqio.ShardInfo(host, 3), shuffle=shuffle, seed=3)
    )
    for host in range(3)
  ]
  assert [len(shard) for shard in shards] == [27, 27, 26]
  assert sorted(itertools.chain(*shards)) == sorted(addresses(read(task)))


def test_each_host_makes_its_own_part_alone():
  made = []

  class Counting(Chain):
    def responses(self, problem_id, sample_id):
      made.extend(problem_id.tolist())
      return super().responses(problem_id, sample_id)

  task = register(problem=Counting(horizon=3))
  read(task, shard_info=seqio.ShardInfo(1, 4))
  assert sorted(made) == sorted(CHAIN.problem_ids("train", 0, 40)[1::4])


def test_the_order_is_the_seeds():
  task = register()
  first = addresses(read(task, shuffle=True, seed=1))
  assert first == addresses(read(task, shuffle=True, seed=1))
  assert first != addresses(read(task, shuffle=True, seed=2))
  assert first != sorted(first) == sorted(addresses(read(task)))


def test_examples_come_from_all_over_the_split():
  # The permutation is of the whole split: were only seqio's buffer of 1,000 to
  # shuffle, the first 50 of 2¹⁷ would be among the first 1,050.
  task = register(train=2**17)
  dataset = task.get_dataset(split="train", shuffle=True, seed=0)
  few = list(dataset.take(50).as_numpy_iterator())
  number = np.array([e["problem_id"] for e in few]) // 3
  assert (number > 2**16).sum() > 10 and (number < 2**16).sum() > 10


def test_mixtures_have_their_rates():
  # Two lengths of prompts tell the tasks apart. 400 draws at a rate of 1/4:
  # deviation 400^½ · (3/16)^½ = 8.7, four of them 35.
  register("short", Chain(horizon=2), train=400)
  register("long", Chain(horizon=3), train=400)
  mixture = seqio.MixtureRegistry.add("both", [("short", 1.0), ("long", 3.0)])
  dataset = mixture.get_dataset(
    split="train", shuffle=False, seed=0, passthrough_features=tasks.IDS
  )
  examples = list(dataset.take(400).as_numpy_iterator())
  short = [e for e in examples if len(e["inputs"]) == 6]
  assert abs(len(short) - 100) < 35
  ids = Chain(horizon=2).problem_ids("train", 0, len(short))
  assert [i for i, _ in addresses(short)] == ids.tolist()


def test_a_mixture_of_other_vocabularies_is_refused():
  register("chain")
  register("countdown", Countdown(max_value=50))
  mixture = seqio.MixtureRegistry.add("both", ["chain", "countdown"], 1.0)
  with pytest.raises(ValueError, match="same vocabulary"):
    mixture.get_dataset(split="train")


@pytest.mark.parametrize(
  ("settings", "match"),
  [
    ({"num_problems": {"training": 3}}, "training"),
    ({"num_problems": {}}, "expected some of"),
    ({"num_problems": {"train": 0}}, "train is 0"),
    ({"num_problems": {"train": 2**31}}, "expected"),
    ({"num_samples": 0}, "num_samples is 0"),
  ],
)
def test_settings_are_checked(settings, match):
  with pytest.raises(ValueError, match=match):
    tasks.register("chain", **{"problem": CHAIN} | settings)


def test_names_are_used_once():
  register("chain")
  with pytest.raises(ValueError, match="chain"):
    register("chain")
