import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest

pytest.importorskip(
  "seqio", reason="seqio is not installed, as by default on Python 3.13"
)

from pav_jax.data import task_cache, tasks
from pav_jax.data.packed_tasks import PackedTask, packed_batches
from pav_jax.problems.chain import Chain
from pav_jax.problems.frameworks import seqio, tf

CHAIN = Chain(horizon=3)
ROOM = {"num_rows": 4, "row_length": 64}


@pytest.fixture(autouse=True)
def registries():
  """Tasks are registered, and cache directories known, for one test."""
  yield
  seqio.TaskRegistry.reset()
  seqio.MixtureRegistry.reset()
  seqio.set_global_cache_dirs([])


@pytest.fixture
def task():
  return tasks.register("chain", CHAIN, num_problems={"train": 100})


def texts_of(batch):
  """Each text's tokens and how many of them are learnt, checked one by one."""
  for tokens, segments, positions, mask in zip(
    batch.tokens, batch.segments, batch.positions, batch.loss_mask, strict=True
  ):
    used = int((segments > 0).sum())
    assert not tokens[used:].any() and not mask[used:].any()
    assert not positions[used:].any() and not segments[used:].any()
    numbers = segments[:used]
    assert (np.diff(numbers, prepend=0) >= 0).all()
    assert set(numbers) == set(range(1, numbers.max(initial=0) + 1))
    for number in range(1, numbers.max(initial=0) + 1):
      at = np.flatnonzero(segments == number)
      assert positions[at].tolist() == list(range(len(at)))
      prompt_len = int((~mask[at]).sum())
      assert mask[at].tolist() == [False] * prompt_len + [True] * (
        len(at) - prompt_len
      )
      yield tuple(tokens[at].tolist()), prompt_len


def demonstrations(problem, number, split="train"):
  ids = problem.problem_ids(split, 0, number)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  return [
    (tuple(tokens[: prefix_len[-1]].tolist()), int(prefix_len[0]))
    for tokens, prefix_len in zip(
      rollout.tokens, rollout.prefix_len, strict=True
    )
  ]


@pytest.mark.parametrize("shuffle", [False, True])
def test_no_token_is_lost_and_responses_alone_are_learnt(task, shuffle):
  batches = list(packed_batches(task, **ROOM, num_epochs=1, shuffle=shuffle))
  want = demonstrations(CHAIN, 100)
  texts = [text for batch in batches for text in texts_of(batch)]
  assert sorted(texts) == sorted(want)
  assert (texts == want) == (not shuffle)
  for batch in batches:
    for name, dtype in (
      ("tokens", np.int32),
      ("segments", np.int32),
      ("positions", np.int32),
      ("loss_mask", bool),
    ):
      x = getattr(batch, name)
      assert (x.shape, x.dtype) == ((4, 64), dtype)
  # Rows of 64 take two texts of at most 36 tokens or more.
  assert max(int(batch.segments.max()) for batch in batches) >= 2


def test_batches_are_the_seeds_and_start_anywhere(task):
  def take(start=0, seed=0, number=4):
    batches = packed_batches(task, **ROOM, seed=seed, start=start)
    return list(itertools.islice(batches, number))

  def same(a, b):
    return all(
      np.array_equal(x, y)
      for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )

  first = take()
  assert same(first, take())
  assert not same(first, take(seed=1))
  assert same(first[2:], take(start=2, number=2))
  # And by position, read on or not, as the training loop asks for them.
  by_position = PackedTask("chain", **ROOM)
  batch, position = by_position(0)
  assert same(batch, first[0]) and position == 1
  assert same(by_position(position)[0], first[1])
  assert same(by_position(3)[0], first[3])
  assert same(by_position(1)[0], first[1])


def test_hosts_share_the_texts(task):
  parts = [
    [
      text
      for batch in packed_batches(
        task, **ROOM, num_epochs=1, host=host, num_hosts=3
      )
      for text in texts_of(batch)
    ]
    for host in range(3)
  ]
  assert sorted(itertools.chain(*parts)) == sorted(demonstrations(CHAIN, 100))


def test_a_mixture_of_prompts_of_two_lengths_is_packed(task):
  # The short problem's longest response has 22 tokens and the long one's
  # prompt 8, so a text may have more than the rows that either alone needs.
  short = Chain(horizon=2)
  tasks.register("short", short, num_problems={"train": 100})
  seqio.MixtureRegistry.add("both", [("chain", 1.0), ("short", 1.0)])
  batches = packed_batches("both", **ROOM, shuffle=False)
  texts = [
    text for batch in itertools.islice(batches, 8) for text in texts_of(batch)
  ]
  kinds = {8: demonstrations(CHAIN, 100), 6: demonstrations(short, 100)}
  for prompt_len, want in kinds.items():
    came = [text for text in texts if text[1] == prompt_len]
    # Each task's texts come in its own order, about as many of each.
    assert came == want[: len(came)] and len(came) > len(texts) / 4


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_cached_task_reads_the_same(task, tmp_path, num_shards):
  folder = task_cache.cache("chain", tmp_path, num_shards=num_shards)
  assert (folder / "COMPLETED").exists()
  seqio.add_global_cache_dirs([str(tmp_path)])
  options = {"split": "train", "shuffle": False}
  cached = list(task.get_dataset(use_cached=True, **options))
  fresh = list(task.get_dataset(**options))
  assert len(cached) == len(fresh) == 100
  for one, other in zip(cached, fresh, strict=True):
    assert one.keys() == other.keys() >= set(tasks.IDS)
    for name, x in other.items():
      assert one[name].dtype == x.dtype
      np.testing.assert_array_equal(one[name], x)
  stats = task.get_cached_stats("train")
  lengths = [len(text) - prompt for text, prompt in demonstrations(CHAIN, 100)]
  assert stats["targets_tokens"] == sum(lengths)
  assert stats["targets_max_tokens"] == max(lengths)
  texts = [
    text
    for batch in packed_batches(task, **ROOM, num_epochs=1, use_cached=True)
    for text in texts_of(batch)
  ]
  assert sorted(texts) == sorted(demonstrations(CHAIN, 100))
  with pytest.raises(ValueError, match="exists"):
    task_cache.cache(task, tmp_path)


def test_an_interrupted_cache_is_none(task, tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError("disk full")

  with monkeypatch.context() as broken:
    broken.setattr(task_cache.json, "dumps", full)
    with pytest.raises(OSError, match="disk full"):
      task_cache.cache(task, tmp_path)
  assert not (tmp_path / "chain").exists()
  task_cache.cache(task, tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ["chain"]


def test_what_cannot_be_cached_is_refused(task, tmp_path):
  bare = task.replace(name="bare", preprocessors=task.preprocessors[:1])
  with pytest.raises(ValueError, match="bare cannot be cached"):
    task_cache.cache(bare, tmp_path)
  with pytest.raises(ValueError, match="num_shards is 17"):
    task_cache.cache(task, tmp_path, num_shards=17)


@pytest.mark.parametrize(
  ("settings", "match"),
  [
    ({"num_rows": 0}, "num_rows is 0"),
    ({"row_length": 1}, "row_length is 1"),
    ({"num_epochs": 0}, "num_epochs is 0"),
    ({"start": -1}, "start is -1"),
    ({"host": 2, "num_hosts": 2}, "host is 2"),
    ({"split": "test"}, "split is 'test'"),
    ({"provider": "unheard of"}, "unheard of"),
    # Prompt 8, answer 18: no text fits.
    ({"row_length": 20}, "too long for row_length = 20"),
  ],
)
def test_settings_are_checked(task, settings, match):
  with pytest.raises(ValueError, match=match):
    next(packed_batches(**{"provider": task} | ROOM | settings))


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda e: e | {"inputs": tf.concat([e["inputs"], [0, 5]], -1)}, "padding"),
    (lambda e: e | {"targets": e["targets"][:0]}, "no targets"),
  ],
)
def test_examples_that_packing_would_garble_are_refused(task, change, match):
  bad = task.replace(
    name="bad",
    preprocessors=[*task.preprocessors[:1], lambda data: data.map(change)],
  )
  with pytest.raises(ValueError, match=match):
    next(packed_batches(bad, **ROOM))


def test_imports_are_silent_and_an_error_ends_a_program():
  # TensorFlow stalls exits while a failed iterator is alive, and writes much
  # when it is imported.
  program = """
import sys
from pav_jax.data import tasks
from pav_jax.problems.chain import Chain
from pav_jax.problems.frameworks import tf
from pav_jax.data.packed_tasks import packed_batches
assert not tf.config.get_visible_devices("GPU")
print("imported", file=sys.stderr, flush=True)
tasks.register("chain", Chain(horizon=3))
next(packed_batches("chain", num_rows=4, row_length=20))
"""
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 1 and not done.stdout
  assert done.stderr.startswith("imported\n")
  assert done.stderr.endswith(
    "ValueError: an example is too long for row_length = 20\n"
  )


def test_a_providers_error_is_told(task):
  class Broken(Chain):
    def responses(self, problem_id, sample_id):
      raise KeyError("lost")

  tasks.register("broken", Broken(), num_problems={"train": 10})
  with pytest.raises(RuntimeError, match="lost"):
    next(packed_batches("broken", num_rows=4, row_length=128))
