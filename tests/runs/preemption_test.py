"""SIGTERM in one process; several are in hosts_test.py."""

import os
import re
import signal

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from pav_jax.runs import preemption
from pav_jax.runs.preemption import Watch


def test_a_signal_is_noted_and_does_not_end_the_process():
  before = signal.getsignal(signal.SIGTERM)
  with Watch() as told_to_stop:
    assert not told_to_stop()
    os.kill(os.getpid(), signal.SIGTERM)
    assert told_to_stop() and told_to_stop() and told_to_stop.agree()
  assert signal.getsignal(signal.SIGTERM) is before
  with Watch() as told_to_stop:
    assert not told_to_stop()


@pytest.fixture
def second_of_two(monkeypatch):
  """Stands for a process beside another one; gives what the service was asked.

  The notice makes the fifth question the one after which all stop.
  """
  asked = []

  def reached(number):
    asked.append(number)
    return number == 5

  monkeypatch.setattr(preemption, "_asked", 0)
  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
  return asked


def test_in_several_processes_the_service_is_asked_with_consecutive_numbers(
  second_of_two,
):
  with Watch() as first:
    assert [first() for _ in range(3)] == [False] * 3
  # The next run of a pipeline counts on.
  with Watch() as second:
    assert [second() for _ in range(4)] == [False, True, True, True]
  assert second_of_two == [1, 2, 3, 4, 5, 6, 7]


def test_processes_at_a_pace_of_their_own_agree(second_of_two, monkeypatch):
  # The other process did 20 pieces of work, and was told to stop.
  monkeypatch.setattr(
    multihost_utils,
    "process_allgather",
    lambda own: np.stack([np.array([1, 20], np.int32), own]),
  )
  with Watch() as told_to_stop:
    assert not told_to_stop()
    assert told_to_stop.agree() and told_to_stop()
  assert second_of_two == [1, 21]


def test_a_run_in_one_process_stops_with_a_checkpoint(processes, tmp_path):
  """How runs go on from checkpoints is in sft_test.py and hosts_test.py."""
  gin_file = processes.DATA / "hosts_sft.gin"
  [process] = processes.start(1, tmp_path, gin_file, "make_mesh.fsdp = 1")
  processes.signal_when(process, tmp_path / "metrics.jsonl", 5)
  [status], [(said, errors)] = processes.finish([process])
  assert status == 0, errors
  done = re.search(r"after step (\d+) of 60; the same command continues", said)
  assert (tmp_path / "checkpoints" / "last" / done[1]).is_dir()
  assert (tmp_path / "metrics.jsonl").read_text().count("\n") == int(done[1])
  assert not (tmp_path / "policy").exists()
