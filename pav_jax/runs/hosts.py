"""One program in several processes: who takes part, and how it ends.

Every host of a TPU slice runs the same command. Which of them a process is, it
finds out by itself:

- On TPU VMs and GKE from the machine, as `jax.distributed.initialize` does. The
  same command on a machine with one host is a program in one process.
- Anywhere from the environment, which counts before the machine:
    JAX_COORDINATOR_ADDRESS  HOST:PORT of process 0, the same for all
    JAX_NUM_PROCESSES        how many there are, at least 1
    JAX_PROCESS_ID           this one's number, from 0; without it
                             JOB_COMPLETION_INDEX, which Kubernetes' jobs set

All processes read the same files (experiment, checkpoints, data) and share the
work directory, which is on a POSIX file system that all hosts see. Process 0
reports; the others are silent, but for errors.

If a process dies the others end with an error, after PAV_HEARTBEAT_SECONDS
(30) at the latest.

    export JAX_COORDINATOR_ADDRESS=localhost:1234 JAX_NUM_PROCESSES=2
    for id in 0 1; do
      JAX_PROCESS_ID=$id python -m pav_jax.main --gin_file=… --workdir=… &
    done
"""

import contextlib
import glob
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from pav_jax.reporting import progress

HEARTBEAT_SECONDS = 30
# Time for the others to end too, once one has come to its end.
SHUTDOWN_SECONDS = 15
# Each has parameters of its own, and a share of the rows.
MAX_CPU_DEVICES = 8


def initialize(environment: Mapping[str, str] = os.environ) -> None:
  """Makes this process one of several, if the environment says so.

  It comes before anything that asks for JAX's devices. The processes wait for
  each other.

  Args:
    environment: see the module's docstring.

  Raises:
    ValueError: if variables are missing or out of range.
    RuntimeError: if other processes do not come within five minutes.
  """
  found = explicit(environment)
  if found is None and not _has_tpu(environment):
    cores_as_devices(environment)
    return
  heartbeat = _number(environment, "PAV_HEARTBEAT_SECONDS", 1)
  limits = {
    "heartbeat_timeout_seconds": heartbeat or HEARTBEAT_SECONDS,
    "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
  }
  if found is not None:
    jax.distributed.initialize(
      **found, **limits, cluster_detection_method="deactivate"
    )
  else:
    try:
      jax.distributed.initialize(**limits)
    except ValueError as error:
      # A TPU without a cluster around it, as notebooks have.
      if "should be defined" in str(error) or "must be defined" in str(error):
        return
      raise
  if jax.process_index():
    progress.silence()
  elif jax.process_count() > 1:
    progress.say(
      f"{jax.process_count()} processes, {jax.device_count()} devices"
    )
  wait_for_all("start")


def cores_as_devices(environment: Mapping[str, str] = os.environ) -> None:
  """Makes CPU cores JAX devices, so that batches are divided over them.

  One device uses several cores within some operations and one of them in all
  others. It comes before anything that asks for JAX's devices, or changes
  nothing. Their number is a power of two, which divides most batches.

  Args:
    environment: `JAX_NUM_CPU_DEVICES` counts before this, and so does
      `--xla_force_host_platform_device_count` in `XLA_FLAGS`.
  """
  if "JAX_NUM_CPU_DEVICES" in environment or (
    "xla_force_host_platform_device_count" in environment.get("XLA_FLAGS", "")
  ):
    return
  if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  devices = min(1 << (cores.bit_length() - 1), MAX_CPU_DEVICES)
  with contextlib.suppress(RuntimeError):  # JAX has been used before
    jax.config.update("jax_num_cpu_devices", devices)


def explicit(environment: Mapping[str, str]) -> dict[str, str | int] | None:
  """What the environment's variables say; None if they say nothing.

  Returns:
    `coordinator_address`, `num_processes` and `process_id`.

  Raises:
    ValueError: if some are there and others missing, or out of range.
  """
  address = environment.get("JAX_COORDINATOR_ADDRESS")
  number = _number(environment, "JAX_NUM_PROCESSES", 1)
  process = _number(environment, "JAX_PROCESS_ID", 0)
  if address is None and number is None and process is None:
    return None
  if address is None and number == 1:
    return None
  if process is None:
    process = _number(environment, "JOB_COMPLETION_INDEX", 0)
  values = {
    "JAX_COORDINATOR_ADDRESS": address,
    "JAX_NUM_PROCESSES": number,
    "JAX_PROCESS_ID": process,
  }
  missing = [name for name, value in values.items() if value is None]
  if missing:
    # On TPUs JAX itself takes an address alone, and finds the rest.
    if number is process is None and _has_tpu(environment):
      return None
    raise ValueError(
      f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
      f"set, expected all of {', '.join(values)} or none"
    )
  host, colon, port = address.rpartition(":")
  if not (host and colon and port.isdigit()):
    raise ValueError(
      f"JAX_COORDINATOR_ADDRESS is {address!r}, expected HOST:PORT"
    )
  if process >= number:
    raise ValueError(
      f"JAX_PROCESS_ID is {process}, expected 0 … {number - 1}, fewer than "
      "JAX_NUM_PROCESSES"
    )
  return {
    "coordinator_address": address,
    "num_processes": number,
    "process_id": process,
  }


def several() -> bool:
  """Whether this process is one of several; asks for no devices if not."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def wait_for_all(name: str) -> None:
  """Returns when all processes have come here; at once for a single one."""
  if several():
    multihost_utils.sync_global_devices(f"pav_jax {name}")


def require_one_process(what: str) -> None:
  """Raises ValueError if there are several; `what` does not work in them."""
  if several():
    raise ValueError(f"{what} runs in one process; got {jax.process_count()}")


def leave(status: int) -> None:
  """Ends this process's part; call it last.

  Args:
    status: 0 waits for all processes. With any other this process has failed:
      it waits for those that fail with it, and for `SHUTDOWN_SECONDS` at most.
  """
  if not jax.distributed.is_initialized():
    return
  if status == 0:
    wait_for_all("end")
  jax.distributed.shutdown()


def abandon(status: int) -> NoReturn:
  """Ends this process at once, as one that can no longer reach the others.

  They end too, as soon as they notice.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _number(
  environment: Mapping[str, str], name: str, least: int
) -> int | None:
  text = environment.get(name)
  if text is None:
    return None
  if not text.isdigit() or int(text) < least:
    raise ValueError(f"{name} is {text!r}, expected a number, {least} or more")
  return int(text)


def _has_tpu(environment: Mapping[str, str]) -> bool:
  """Whether this machine has TPUs that JAX will use."""
  platforms = environment.get("JAX_PLATFORMS", "")
  if platforms and "tpu" not in platforms.split(","):
    return False
  if importlib.util.find_spec("libtpu") is None:
    return False
  return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
