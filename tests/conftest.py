"""What all tests share: CPU devices, compiled code, shape checks.

JAX reads its settings when it is imported, and the shape checks are put on
modules as they are imported; so both are arranged before any test is loaded.
They go through the environment, which processes started by a test inherit.
"""

import importlib.metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile many programs and run each for a moment, so machine code is not
# optimised; what XLA does before, such as partitioning, is as ever. The third
# turns off emitters that compile slowly; JAX 0.12 has no others.
os.environ["XLA_FLAGS"] = " ".join(
  [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
    *(
      ["--xla_cpu_use_fusion_emitters=false"]
      if importlib.metadata.version("jaxlib").startswith("0.10.")
      else []
    ),
    os.environ.get("XLA_FLAGS", ""),  # of flags that differ, the later counts
    "--xla_force_host_platform_device_count=8",
  ]
)
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import jaxtyping
import pytest
from matplotlib import figure

jaxtyping.install_import_hook("pav_jax", "beartype.beartype")


def pytest_collection_modifyitems(items):
  """Begins with the longest, so that none is left alone at the end."""
  items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.fixture
def drawn(monkeypatch):
  """Figures in the order in which they would be written, which they are not."""
  figures = []
  monkeypatch.setattr(
    figure.Figure, "savefig", lambda self, _: figures.append(self)
  )
  return figures


@pytest.fixture
def no_shape_checks():
  """Turns jaxtyping's checks off, to see what a user without them sees."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


# A process that has more mappings of memory (65,530 by default on Linux) cannot
# load machine code and dies; every compiled program has three or more.
MOST_MAPPINGS = 40_000


@pytest.fixture(scope="module", autouse=True)
def few_mappings():
  """Forgets compiled programs before they are too many for a process."""
  yield
  mappings = pathlib.Path("/proc/self/maps")
  if mappings.exists():
    with mappings.open("rb") as lines:
      if sum(1 for _ in lines) > MOST_MAPPINGS:
        jax.clear_caches()
