"""Imports that take most of the time of a command that has a mistake."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
  """While modules are imported, unused objects are not looked for.

  Importing JAX, Flax and Orbax makes a million objects and drops few; looking
  for those takes a tenth of the time.
  """
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was_enabled:
      gc.enable()
