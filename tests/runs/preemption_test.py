"""SIGTERM in one process; several are in hosts_test.py."""

import os
import re
import signal
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from pav_jax.runs import preemption
from pav_jax.runs.preemption import Preempted, Watch


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


def test_an_interrupt_is_told_at_the_next_question_wherever_it_arrives():
  """In a callback too, where what it raises would be lost."""

  class Dying:
    def __del__(self):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(0.01)

  with (
    pytest.raises(preemption.Interrupted, match="after step 3"),
    Watch() as told_to_stop,
  ):
    assert not told_to_stop()
    Dying()
    assert told_to_stop()
    raise Preempted("stopped after step 3")
  with pytest.raises(preemption.Interrupted), Watch():
    Dying()  # after the last question


def test_a_second_interrupt_ends_at_once_and_errors_are_not_hidden():
  with pytest.raises(KeyboardInterrupt) as raised, Watch():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    pytest.fail("went on")
  assert raised.type is KeyboardInterrupt
  with pytest.raises(OSError), Watch():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    raise OSError


def test_in_several_processes_an_interrupt_is_as_sigterm(
  second_of_two, monkeypatch
):
  sent = []
  monkeypatch.setattr(
    preemption.os, "kill", lambda _, which: sent.append(which)
  )
  with pytest.raises(Preempted), Watch() as told_to_stop:
    signal.raise_signal(signal.SIGINT)
    assert sent == [signal.SIGTERM]
    assert not told_to_stop()  # until the service says so to all
    raise Preempted
  assert second_of_two == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_outside_a_watch_an_interrupt_that_was_lost_comes_again():
  class Dying:
    def __del__(self):
      signal.raise_signal(signal.SIGINT)

  before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)
  with (
    pytest.raises(KeyboardInterrupt),
    preemption.interruptible(seconds=0.05),
  ):
    Dying()  # what it raises is ignored
    time.sleep(5)
    pytest.fail("the interrupt was lost")
  assert before == (
    signal.getsignal(signal.SIGINT),
    signal.getsignal(signal.SIGALRM),
  )


def test_an_interrupted_run_keeps_what_was_begun(processes, tmp_path):
  gin_file = processes.DATA / "hosts_sft.gin"
  [process] = processes.start(1, tmp_path, gin_file, "make_mesh.fsdp = 1")
  processes.signal_when(
    process, tmp_path / "metrics.jsonl", 5, which=signal.SIGINT
  )
  [status], [(said, errors)] = processes.finish([process])
  assert status == 130, errors
  done = re.search(r"after step (\d+) of 60; the same command continues", said)
  assert (tmp_path / "checkpoints" / "last" / done[1]).is_dir()
