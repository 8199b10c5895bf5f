import dataclasses
import itertools

import numpy as np
import pytest

from pav_jax.data import step_targets, step_targets_writer
from pav_jax.rollout import StepTargets

FINGERPRINT = "f" * 64
NUM_TRACES = 7


def targets():
  """Seven traces of different lengths; trace b has b % 4 steps."""
  b = np.arange(NUM_TRACES)[:, None]
  prefix_len = 2 + 2 * np.minimum(np.arange(4), b % 4)
  exists = np.arange(4) <= b % 4
  tokens = np.where(np.arange(11) < prefix_len[:, -1:], 5 + b, 9)
  return StepTargets(
    tokens=tokens.astype(np.int32),
    prefix_len=prefix_len.astype(np.int32),
    num_completions=np.where(exists, 4, 0).astype(np.int32),
    num_correct=np.where(exists, b % 5, 0).astype(np.float32),
    outcome=np.array([1, 0, np.nan, 1, 0, 0, 1], np.float32),
    problem_id=np.arange(NUM_TRACES, dtype=np.int32),
    sample_id=np.zeros(NUM_TRACES, np.int32),
  )


def write(directory, given, num_shards=3):
  pytest.importorskip(
    "pav_jax.problems.frameworks",
    reason="the extra `data` is not installed",
    exc_type=ImportError,
  )
  return step_targets_writer.write(
    directory,
    given,
    num_shards=num_shards,
    config={"source": "test"},
    fingerprint=FINGERPRINT,
    pad_id=9,
  )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp("targets")
  write(path, targets())
  return path


def assert_same(actual, expected):
  for field in dataclasses.fields(StepTargets):
    a, b = getattr(actual, field.name), getattr(expected, field.name)
    assert type(a) is np.ndarray and a.dtype == b.dtype, field.name
    np.testing.assert_array_equal(a, b, err_msg=field.name)


def cut(given, width):
  return dataclasses.replace(given, tokens=given.tokens[:, :width])


def test_loading_gives_what_was_written_as_wide_as_the_longest(directory):
  # Three steps of two tokens after a problem of two: 8, and 11 were given.
  assert_same(
    step_targets.load(directory, fingerprint=FINGERPRINT), cut(targets(), 8)
  )
  manifest = step_targets.read_manifest(directory)
  assert (manifest.max_tokens, manifest.max_prefixes) == (8, 4)
  assert manifest.num_traces == NUM_TRACES


def test_widths_can_be_asked_for(directory):
  load = step_targets.load
  wide = load(directory, fingerprint=FINGERPRINT, num_tokens=11, multiple_of=1)
  assert_same(wide, targets())
  for asked, multiple, width in ((None, 5, 10), (9, 4, 12), (8, 8, 8)):
    loaded = load(
      directory,
      fingerprint=FINGERPRINT,
      num_tokens=asked,
      multiple_of=multiple,
    )
    assert loaded.tokens.shape == (NUM_TRACES, width)
    assert (loaded.tokens[:, 8:] == 9).all()
  loaded = load(directory, fingerprint=FINGERPRINT, num_prefixes=6)
  np.testing.assert_array_equal(
    loaded.prefix_len,
    np.pad(targets().prefix_len, ((0, 0), (0, 2)), mode="edge"),
  )
  assert not loaded.num_completions[:, 4:].any()


@pytest.mark.parametrize(
  ("options", "what"),
  [
    ({"num_tokens": 7}, "num_tokens is 7, expected at least 8"),
    ({"num_prefixes": 3}, "num_prefixes is 3, expected at least 4"),
    ({"multiple_of": 0}, "multiple_of is 0"),
    ({"host": 1}, "host is 1, expected 0 … 0"),
    (
      {"fingerprint": "e" * 64},
      r"fingerprint ffffffffffff…, and is to be read with eeeeeeeeeeee…",
    ),
  ],
)
def test_what_does_not_fit_is_refused_at_the_call(directory, options, what):
  with pytest.raises(ValueError, match=what):
    step_targets.read_shards(
      directory, **({"fingerprint": FINGERPRINT} | options)
    )


def test_shards_come_in_order_and_padded_alike(directory):
  shards = list(step_targets.read_shards(directory, fingerprint=FINGERPRINT))
  assert [s.tokens.shape for s in shards] == [(3, 8), (2, 8), (2, 8)]
  ids = [s.problem_id.tolist() for s in shards]
  assert ids == [[0, 1, 2], [3, 4], [5, 6]]


def test_hosts_read_each_shard_once(directory):
  seen = [
    [
      shard.problem_id.tolist()
      for shard in step_targets.read_shards(
        directory, fingerprint=FINGERPRINT, host=host, num_hosts=2
      )
    ]
    for host in (0, 1)
  ]
  assert seen == [[[0, 1, 2], [5, 6]], [[3, 4]]]


def test_empty_shards_are_read_too(tmp_path):
  # Nine shards of seven traces: the last two have none.
  write(tmp_path, targets(), num_shards=9)
  assert_same(
    step_targets.load(tmp_path, fingerprint=FINGERPRINT), cut(targets(), 8)
  )


def test_soft_labels_are_kept_to_the_last_bit(tmp_path):
  n = np.minimum(targets().num_completions, 1)
  soft = dataclasses.replace(
    targets(),
    num_completions=n,
    num_correct=n / np.arange(1, 8)[:, None],  # thirds, sevenths, …
  )
  write(tmp_path, soft)
  loaded = step_targets.load(tmp_path, fingerprint=FINGERPRINT)
  assert_same(loaded, cut(soft, 8))
  assert loaded.num_correct.dtype == np.float64


def test_unfinished_and_missing_data_sets_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"has no manifest\.json"):
    step_targets.load(tmp_path, fingerprint=FINGERPRINT)
  with step_targets_writer.Writer(
    tmp_path,
    config={},
    seed=0,
    checkpoint="",
    fingerprint=FINGERPRINT,
    pad_id=0,
    num_shards=1,
  ):
    pass
  with pytest.raises(ValueError, match="is unfinished; start what writes it"):
    step_targets.load(tmp_path, fingerprint=FINGERPRINT)


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_shards_are_named_when_reached(tmp_path, damage):
  write(tmp_path, targets())
  path = tmp_path / step_targets.shard_name(1, 3)
  data = path.read_bytes()
  path.unlink()
  if damage == "truncated":
    path.write_bytes(data[:-10])
  shards = step_targets.read_shards(tmp_path, fingerprint=FINGERPRINT)
  assert len(next(shards).tokens) == 3
  with pytest.raises(
    ValueError, match=r"targets-00001-of-00003.*this shard alone"
  ):
    next(shards)


def test_batches_hold_each_row_once_a_pass_in_a_new_order():
  # Batches of 3 from 7 rows: 7 batches are exactly three passes.
  rows = np.concatenate(
    [
      step_targets.batch_rows(7, batch_size=3, seed=1, step=step)
      for step in range(7)
    ]
  )
  passes = rows.reshape(3, 7).tolist()
  assert [sorted(order) for order in passes] == [list(range(7))] * 3
  assert len(set(map(tuple, passes))) == 3
  other = step_targets.batch_rows(7, batch_size=7, seed=2, step=0)
  assert other.tolist() not in passes


def test_batches_go_on_from_any_step():
  from_start = step_targets.batches(targets(), batch_size=2, seed=0)
  resumed = step_targets.batches(targets(), batch_size=2, seed=0, start=5)
  for a, b in zip(
    itertools.islice(from_start, 5, 9),
    itertools.islice(resumed, 4),
    strict=True,
  ):
    assert_same(a, b)
    # Rows stay together.
    np.testing.assert_array_equal(a.tokens[:, 0], 5 + a.problem_id)


@pytest.mark.parametrize(
  "bad", [{"num_rows": 0}, {"batch_size": 0}, {"step": -1}, {"seed": -1}]
)
def test_batches_of_nothing_are_refused(bad):
  settings = {"num_rows": 7, "batch_size": 3, "seed": 1, "step": 0} | bad
  with pytest.raises(ValueError, match="expected at least 1, 1, 0 and 0"):
    step_targets.batch_rows(settings.pop("num_rows"), **settings)
