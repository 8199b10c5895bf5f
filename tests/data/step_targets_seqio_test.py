import dataclasses

import numpy as np
import pytest

from pav_jax.data import step_targets, step_targets_seqio, step_targets_writer
from pav_jax.rollout import StepTargets

seqio = pytest.importorskip(
  "pav_jax.problems.frameworks",
  reason="the extra `data` is not installed",
  exc_type=ImportError,
).seqio

FINGERPRINT = "f" * 64
NAMES = [field.name for field in dataclasses.fields(StepTargets)]


def targets(num_traces):
  """Traces of 0, 1 and 2 steps in turn, with counts and soft labels."""
  b = np.arange(num_traces)[:, None]
  prefix_len = 1 + 3 * np.minimum(np.arange(3), b % 3)
  n = np.where(np.arange(3) <= b % 3, 1 + b % 2, 0)
  return StepTargets(
    tokens=np.where(np.arange(8) < prefix_len[:, -1:], 2 + b, 0).astype(int),
    prefix_len=prefix_len,
    num_completions=n,
    num_correct=n / 3,
    outcome=np.where(b[:, 0] % 2, np.nan, 1).astype(np.float32),
    problem_id=np.arange(num_traces),
    sample_id=np.arange(num_traces) % 2,
  )


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
  paths = {}
  for split, num_traces in (("train", 6), ("validation", 3)):
    paths[split] = tmp_path_factory.mktemp(split)
    step_targets_writer.write(
      paths[split],
      targets(num_traces),
      num_shards=2,
      config={},
      fingerprint=FINGERPRINT,
      pad_id=0,
    )
  return paths


def assert_same(examples, directory):
  """Padding the examples by hand gives what loading gives, in some order."""
  loaded = step_targets.load(directory, fingerprint=FINGERPRINT)
  examples = sorted(examples, key=lambda example: example["problem_id"])
  assert len(examples) == len(loaded.tokens)
  for b, example in enumerate(examples):
    assert sorted(example) == sorted(NAMES)
    for name in NAMES:
      x, row = example[name], getattr(loaded, name)[b]
      if np.ndim(x):
        mode = "edge" if name == "prefix_len" else "constant"
        x = np.pad(x, (0, len(row) - len(x)), mode)
      np.testing.assert_array_equal(x, row.astype(x.dtype), err_msg=name)


def test_the_source_gives_the_arrays_that_loading_gives(directories):
  source = step_targets_seqio.data_source(directories, fingerprint=FINGERPRINT)
  assert isinstance(source, seqio.TFExampleDataSource)
  assert set(source.splits) == {"train", "validation"}
  assert source.num_input_examples("train") == 6
  for split, directory in directories.items():
    dataset = source.get_dataset(split, shuffle=False)
    assert_same(dataset.as_numpy_iterator(), directory)


def test_a_task_gives_them_as_int32_and_to_each_host_its_shard(directories):
  task = step_targets_seqio.register_task(
    "step_targets_test",
    directories,
    fingerprint=FINGERPRINT,
    vocab_size=10,
  )
  try:
    examples = list(
      seqio.get_mixture_or_task("step_targets_test")
      .get_dataset(None, "train", shuffle=True, seed=0)
      .as_numpy_iterator()
    )
    assert_same(examples, directories["train"])
    assert {str(np.asarray(x).dtype) for e in examples for x in e.values()} == {
      "int32",
      "float32",
    }
    halves = [
      task.get_dataset(
        None, "train", shuffle=False, shard_info=seqio.ShardInfo(index, 2)
      )
      for index in (0, 1)
    ]
    ids = [
      sorted(int(e["problem_id"]) for e in half.as_numpy_iterator())
      for half in halves
    ]
    assert ids == [[0, 1, 2], [3, 4, 5]]
  finally:
    seqio.TaskRegistry.remove("step_targets_test")


def test_another_vocabulary_and_damage_are_refused(directories, tmp_path):
  with pytest.raises(ValueError, match="other tokens or other steps"):
    step_targets_seqio.data_source(directories, fingerprint="e" * 64)
  step_targets_writer.write(
    tmp_path, targets(3), config={}, fingerprint=FINGERPRINT, pad_id=0
  )
  path = tmp_path / step_targets.shard_name(0, 1)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match="is damaged"):
    step_targets_seqio.data_source({"train": tmp_path}, fingerprint=FINGERPRINT)
