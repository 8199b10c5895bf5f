"""A single process; several are in tests/runs/hosts_test.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.models.presets import preset
from pav_jax.policies.language_model import LanguageModel
from pav_jax.training import processes

POLICY = LanguageModel(
  preset("tiny"), 1, [False, False, True] + [False] * 125, 8, 2
)


def test_a_single_process_has_it_all():
  rows = np.arange(6).reshape(3, 2)
  tree = {"a": rows}
  assert processes.is_first()
  assert processes.share(5) == slice(0, 5)
  assert processes.gather(rows) is rows
  assert processes.gather_objects(["a", 1]) == ["a", 1]
  assert processes.agree(tree) is tree
  assert processes.led(lambda x: x[0])([5]) == 5
  assert not processes.together(POLICY)
  assert processes.share_of(POLICY, 5) == slice(0, 5)


def test_a_policy_samples_where_its_parameters_are():
  """The policy is told that they are on several devices, split or copied."""
  params = {"w": jnp.ones(8)}
  assert processes.to_sample(POLICY, params, None) == (POLICY, params)
  for sizes, split in (((8, 1, 1), False), ((2, 4, 1), True)):
    layout = Layout(partitioning.make_mesh(*sizes))
    assert layout.splits_parameters == split
    assert not layout.spans_processes
    policy, placed = processes.to_sample(POLICY, params, layout)
    assert policy.layout is layout
    assert placed["w"] is params["w"]
  alone = Layout(partitioning.make_mesh(devices=jax.devices()[:1]))
  assert processes.to_sample(POLICY, params, alone) == (POLICY, params)


@pytest.mark.parametrize("number, count", [(10, 4), (3, 4), (0, 2), (8, 8)])
def test_shares_are_everything_once_and_about_equal(monkeypatch, number, count):
  monkeypatch.setattr(jax, "process_count", lambda: count)
  parts = []
  for index in range(count):
    monkeypatch.setattr(jax, "process_index", lambda i=index: i)
    parts.append(np.arange(number)[processes.share(number)])
  np.testing.assert_array_equal(np.concatenate(parts), np.arange(number))
  lengths = [len(part) for part in parts]
  assert max(lengths) - min(lengths) <= 1


class Together:
  """Stands for collectives: what a process sends, and what the other has."""

  def __init__(self, monkeypatch, other):
    self.other = other
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", self)

  def __call__(self, own):
    if own.dtype != np.uint8:  # numbers of rows
      return np.stack([own, [len(self.other)]])
    padded = np.zeros(len(own), np.uint8)
    sent = np.ascontiguousarray(self.other).view(np.uint8).reshape(-1)
    padded[: len(sent)] = sent
    return np.stack([own, padded])


def test_rows_of_unlike_numbers_are_gathered_in_order(monkeypatch):
  """To the last bit of float64, which devices do not have."""
  own = np.array([[0.1, 1e300], [-0.0, np.inf]])
  other = np.array([[1 / 3, 5.0]])
  Together(monkeypatch, other)
  found = processes.gather(own)
  assert found.dtype == own.dtype
  assert found.tobytes() == np.concatenate([own, other]).tobytes()
