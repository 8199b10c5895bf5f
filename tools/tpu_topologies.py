"""TPU slices that programs are compiled for, without one at hand."""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator, Sequence

import jax
from jax.experimental import topologies


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of TPU.

  Attributes:
    hbm: bytes that programs may use of a chip's main memory, as the compiler
      says where they do not suffice.
    clock: cycles a second; the compiler estimates in cycles. That which gives
      the published peak of bfloat16 products.
    slices: topologies that can be rented, the smallest first.
  """

  hbm: int
  clock: float
  slices: tuple[str, ...]


_GRID = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_TORUS = (
  *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
  *("8x8x8", "8x8x16"),
)
_GIB = 2**30
CHIPS = {
  "v5e": Chip(int(15.75 * _GIB), 1.5e9, _GRID),
  "v5p": Chip(int(95.74 * _GIB), 1.75e9, _TORUS),
  "v6e": Chip(int(31.25 * _GIB), 1.75e9, _GRID),
}

# What libtpu would otherwise ask Google's metadata server for, and complain of
# when there is none.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is run, so none is in the way
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_MIN_LOG_LEVEL": "3",
  "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice, whose devices exist for the compiler alone.

  Attributes:
    name: such as "v5e:4x4".
    chip: its kind.
    devices: for `partitioning.make_mesh`.
  """

  name: str
  chip: Chip
  devices: Sequence[jax.Device]


def parse(name: str) -> tuple[str, int]:
  """The kind and number of chips of a topology's name.

  Raises:
    ValueError: if it is not like "v5e:4x4", of a known kind.
  """
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
  if not match or match[1] not in CHIPS:
    raise ValueError(
      f"topology is {name!r}, expected KIND:AxB or KIND:AxBxC such as v5e:4x4, "
      f"with KIND one of {', '.join(CHIPS)}"
    )
  number = 1
  for size in match[2].split("x"):
    number *= int(size)
  if not number:
    raise ValueError(f"topology {name!r} has no chips")
  return match[1], number


def describe(name: str) -> Slice:
  """A slice by its topology's name.

  Raises:
    ValueError: if the name is malformed, or the compiler knows no such slice.
    ImportError: if libtpu is not installed.
  """
  kind, number = parse(name)
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  try:
    import libtpu  # noqa: F401
  except ImportError as error:
    raise ImportError(
      "libtpu is not installed; pip install -e '.[tpu]' installs it"
    ) from error
  more = {}
  if number == 1:  # else a host is taken to have four
    more = {"chips_per_host_bounds": (1, 1, 1)}
  try:
    with quiet():
      found = topologies.get_topology_desc(name, platform="tpu", **more)
  except (RuntimeError, ValueError, NotImplementedError) as error:
    raise ValueError(
      f"the compiler refuses topology {name!r}: {str(error).splitlines()[0]}"
    ) from error
  return Slice(name, CHIPS[kind], found.devices)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Holds back what native code writes to stderr; shows it after an error.

  libtpu warns of TPU variables that are not set where there is no TPU.
  """
  saved = os.dup(2)
  with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(saved, 2)
      os.close(saved)
