"""Programs in several processes, which find each other and end together."""

import json
import os
import re
import shutil
import signal
import sys

import jax
import numpy as np
import pytest

from pav_jax.runs import hosts

ADDRESS = {"JAX_COORDINATOR_ADDRESS": "host:1234"}
VALUES = "q_policy", "q_prover"
NUMBERS = {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_nothing_in_the_environment_is_one_process(monkeypatch):
  monkeypatch.setattr(
    jax.distributed, "initialize", lambda **_: pytest.fail("initialised")
  )
  monkeypatch.setattr(hosts, "_has_tpu", lambda _: False)
  hosts.initialize({})
  hosts.initialize({"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"})
  assert not hosts.several()
  hosts.wait_for_all("nobody")
  hosts.require_one_process("this test")
  hosts.leave(0)


def test_variables_say_who_a_process_is():
  expected = {
    "coordinator_address": "host:1234",
    "num_processes": 4,
    "process_id": 3,
  }
  assert hosts.explicit(ADDRESS | NUMBERS) == expected
  kubernetes = {"JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "3"}
  assert hosts.explicit(ADDRESS | kubernetes) == expected


@pytest.mark.parametrize(
  "environment, message",
  [
    (ADDRESS, "JAX_NUM_PROCESSES and JAX_PROCESS_ID are not set"),
    (NUMBERS, "JAX_COORDINATOR_ADDRESS is not set, expected all of"),
    (ADDRESS | NUMBERS | {"JAX_PROCESS_ID": "4"}, "ID is 4, expected 0 … 3"),
    (ADDRESS | NUMBERS | {"JAX_PROCESS_ID": "-1"}, "ID is '-1', expected a nu"),
    (ADDRESS | NUMBERS | {"JAX_NUM_PROCESSES": "0"}, "'0', expected a number"),
    (NUMBERS | {"JAX_COORDINATOR_ADDRESS": "host"}, "'host', expected HOST:P"),
  ],
)
def test_variables_that_make_no_sense(environment, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    hosts.explicit(environment)


@pytest.mark.parametrize("found", [True, False])
def test_on_a_tpu_jax_asks_the_machine(monkeypatch, found):
  """Where there is no cluster around the TPU, it is one process."""
  asked = []

  def initialize(**settings):
    asked.append(settings)
    if not found:
      raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  monkeypatch.setattr(hosts, "_has_tpu", lambda _: True)
  hosts.initialize({"PAV_HEARTBEAT_SECONDS": "7"})
  assert asked == [
    {"heartbeat_timeout_seconds": 7, "shutdown_timeout_seconds": 15}
  ]


def test_a_run_for_one_process_says_so(monkeypatch):
  monkeypatch.setattr(hosts, "several", lambda: True)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(ValueError, match="compare runs in one process; got 2"):
    hosts.require_one_process("compare")


@pytest.mark.parametrize(
  "cores, devices", [(1, 1), (2, 2), (3, 2), (6, 4), (12, 8), (64, 8)]
)
def test_cores_become_a_power_of_two_of_devices(monkeypatch, cores, devices):
  changed = []
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
  monkeypatch.setattr(jax.config, "update", lambda *x: changed.append(x))
  hosts.cores_as_devices({"XLA_FLAGS": "--xla_some_other=1"})
  assert changed == [("jax_num_cpu_devices", devices)]
  hosts.cores_as_devices({"JAX_NUM_CPU_DEVICES": "3"})
  flag = "--xla_force_host_platform_device_count=3"
  hosts.cores_as_devices({"XLA_FLAGS": flag})
  assert len(changed) == 1


def test_devices_that_are_in_use_are_not_changed():
  assert jax.device_count() == 8  # from here on they are in use
  hosts.cores_as_devices({})
  assert jax.device_count() == 8


OWN = """
import sys
import jax
import numpy as np
from pav_jax.models import partitioning
from pav_jax.runs import hosts

hosts.initialize()
layout = partitioning.Layout(partitioning.make_mesh())
assert layout.mesh.size == 2 * jax.process_count()
x = np.arange(6.0)
whole = partitioning.put(x, partitioning.replicated(layout.mesh))
own = partitioning.own(whole)
assert own.is_fully_addressable
assert own.sharding.mesh == layout.own.mesh
assert layout.own.mesh.size == 2
np.testing.assert_array_equal(jax.jit(lambda x: 2 * x)(own), 2 * x)
hosts.leave(0)
"""


def test_a_process_of_several_has_its_own_devices(processes):
  """Two with two devices each."""
  command = [sys.executable, "-c", OWN]
  both = processes.start(2, None, None, devices=2, command=command)
  statuses, printed = processes.finish(both)
  assert statuses == [0, 0], printed


def rows(path):
  """Metrics by arm and iteration, but for what a clock measured."""
  found = {}
  for line in path.read_text().splitlines():
    row = json.loads(line)
    row.pop("tokens_per_second", None)
    found[row.pop("arm"), row.pop("iteration")] = row
  return found


def assert_close(found, expected, tolerance=1e-5):
  """Single precision has 1e-7; sums of some hundred terms, a few steps."""
  assert found.keys() == expected.keys()
  for place, row in expected.items():
    for name, value in row.items():
      if value == [None]:  # unknown
        assert found[place][name] == value, f"{place} {name}"
        continue
      np.testing.assert_allclose(
        found[place][name], value, tolerance, 1e-9, err_msg=f"{place} {name}"
      )


def assert_same_answers(directory, other):
  """Of searches, but for what a clock measured; values within rounding."""
  both = []
  for path in (directory, other):
    with (path / "search" / "rows.jsonl").open() as file:
      found = [json.loads(line) for line in file]
    both.append([row for row in found if row.pop("seconds") > 0])
  assert len(both[0]) == len(both[1]) > 6
  for row, same in zip(*both, strict=True):
    values = [x.pop(name) for x in (row, same) for name in VALUES]
    np.testing.assert_allclose(values[:2], values[2:], atol=1e-5)
    assert row == same


def files(directory):
  return {
    path.relative_to(directory): path.read_bytes()
    for path in sorted(directory.rglob("*"))
    if path.is_file() and not path.name.startswith(".lock")
  }


def assert_same_files(directory, other, *parts):
  for part in parts:
    both = [files(path / part) for path in (directory, other)]
    assert both[0] and both[0] == both[1], part


def assert_same_learning(directory, other, lane, tolerance=1e-5):
  name = f"{lane}/seed0/metrics.jsonl"
  found, expected = (rows(path / name) for path in (directory, other))
  # A KL of 1e-12 to the policy itself is rounding.
  assert_close(found, expected, tolerance)
  assert max(row.get("gradient_norm", [0])[0] for row in found.values()) > 0


@pytest.mark.first
def test_several_processes_do_what_one_does(processes, tmp_path):
  """Told to stop, continued, killed: in the end the files of one process.

  The mesh has two devices, on which parameters of fine-tuning are split: those
  of one process, or of two. Sums have two terms then, and no order.
  """
  gin_file = processes.DATA / "hosts_pipeline.gin"
  processes.run(1, tmp_path / "one", gin_file, devices=2)
  one = rows(tmp_path / "one" / "sft" / "metrics.jsonl")

  # SIGTERM for one of two: both stop after the same step, with a checkpoint.
  metrics = tmp_path / "two" / "sft" / "metrics.jsonl"
  both = processes.start(2, tmp_path / "two", gin_file)
  processes.signal_when(both[1], metrics, 10)
  statuses, ((said, _), (silent, _)) = processes.finish(both)
  assert statuses == [0, 0], said
  stopped = int(re.search(r"stopped after step (\d+) of 60", said)[1])
  last = metrics.parents[0] / "checkpoints" / "last"
  assert [path.name for path in last.iterdir()] == [str(stopped)]
  assert len(rows(metrics)) == stopped >= 10
  # Process 0 reports; only the library for collectives talks elsewhere.
  assert all("[Gloo]" in line for line in silent.splitlines())
  # The arrays are split over the processes, which none of them gathers.
  meta = json.loads((last / str(stopped) / "meta" / "metadata").read_text())
  assert "checksum" in meta

  # Four continue from there, on a mesh of four, until one is killed.
  shutil.copytree(tmp_path / "two", tmp_path / "four")
  metrics = tmp_path / "four" / "sft" / "metrics.jsonl"
  four = processes.start(4, tmp_path / "four", gin_file)
  processes.signal_when(four[2], metrics, stopped + 5, signal.SIGKILL)
  statuses, printed = processes.finish(four)
  assert statuses.pop(2) == -signal.SIGKILL
  assert 0 not in statuses and None not in statuses
  assert f"continuing after step {stopped}" in printed[0][0]
  found = rows(metrics)
  assert len(found) >= stopped + 5
  # Sums of four terms are rounded otherwise, and steps multiply that.
  assert_close(found, {place: one[place] for place in found}, 1e-3)

  # Two continue, and do all else but what four will.
  parts = [
    f"@{name}/Part()" for name in ("sft", "collect", "verifier", "search", "rl")
  ]
  (said, _), _ = processes.run(
    2, tmp_path / "two", gin_file, f"PARTS=[{', '.join(parts)}]"
  )
  assert f"continuing after step {stopped}" in said
  pair = tmp_path / "two", tmp_path / "one"
  assert_same_files(*pair, "sft/policy", "collect/targets")
  for part in ("sft", "verifier"):
    assert_close(*(rows(path / part / "metrics.jsonl") for path in pair))
  assert_same_answers(*pair)
  assert_same_learning(*pair, "rl/lanes/outcome")

  # Four collect from the same policy, and learn under the same verifier.
  shutil.rmtree(tmp_path / "four")
  for part in ("sft", "verifier"):
    shutil.copytree(tmp_path / "one" / part, tmp_path / "four" / part)
  processes.run(
    4,
    tmp_path / "four",
    gin_file,
    "PARTS=[@collect/Part(), @rl_split/Part()]",
  )
  pair = tmp_path / "four", tmp_path / "one"
  assert_same_files(*pair, "collect/targets")
  # Its sums have four terms; a small KL is a difference of larger numbers.
  assert_same_learning(*pair, "rl_split/lanes/progress", 1e-4)
