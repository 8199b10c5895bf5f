"""Running a gin file in several processes of one machine, as hosts would."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


def start(number, workdir, gin_file, *bindings, devices=1, command=None):
  """Processes with simulated devices each; a single one is no part of many.

  They run the gin file, or a command.
  """
  environment = os.environ | {
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": re.sub(
      r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"]
    ),
    # On a machine that does much else at once, they may be late.
    "PAV_HEARTBEAT_SECONDS": "60",
  }
  if number > 1:
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    environment |= {
      "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
      "JAX_NUM_PROCESSES": str(number),
    }
  command = command or [
    sys.executable,
    "-m",
    "pav_jax.main",
    f"--gin_file={gin_file}",
    f"--workdir={workdir}",
    *(f"--gin.{binding}" for binding in bindings),
  ]
  return [
    subprocess.Popen(
      command,
      env=environment | ({"JAX_PROCESS_ID": str(i)} if number > 1 else {}),
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(number)
  ]


def finish(processes, *, seconds=900):
  """Exit statuses, and what was printed; none may be left behind."""
  deadline = time.monotonic() + seconds
  try:
    printed = [
      process.communicate(timeout=max(0, deadline - time.monotonic()))
      for process in processes
    ]
  finally:
    for process in processes:
      process.kill()
  return [process.returncode for process in processes], printed


def run(*arguments, **settings):
  """Runs to the end, which must be a good one; what each process printed."""
  statuses, printed = finish(start(*arguments, **settings))
  assert not any(statuses), printed
  return printed


def signal_when(process, path, lines, which=signal.SIGTERM):
  """Sends a signal once a file has so many lines."""
  deadline = time.monotonic() + 900
  while process.poll() is None and time.monotonic() < deadline:
    if path.exists() and path.read_bytes().count(b"\n") >= lines:
      break
    time.sleep(0.002)
  process.send_signal(which)


@pytest.fixture(scope="session")
def processes():
  """The functions of this file, which tests cannot import."""
  return sys.modules[__name__]
