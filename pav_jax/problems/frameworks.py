"""TensorFlow, TFDS and seqio, imported without noise and kept off accelerators.

    from pav_jax.problems.frameworks import seqio, tf, tfds

They are the extra `data`; `import pav_jax` needs neither.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

from pav_jax import packages

__all__ = ["seqio", "tf", "tfds"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops what libraries write to file descriptor 2; errors are raised."""
  sys.stderr.flush()
  kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nothing, 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(nothing)


try:
  with _quiet():
    import seqio
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # Else TensorFlow would take the accelerators' memory from JAX.
    for _kind in ("GPU", "TPU"):
      with contextlib.suppress(RuntimeError):  # In use, and so not ours.
        tf.config.set_visible_devices([], _kind)
except ImportError as error:
  raise packages.MissingPackageError(
    f"data sets of TFDS and seqio need TensorFlow, which cannot be imported "
    f"({error}): pip install tensorflow tensorflow-datasets seqio "
    "importlib_resources, on Linux and a Python below 3.13"
  ) from error
