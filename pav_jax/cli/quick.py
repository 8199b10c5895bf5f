"""What makes commands begin sooner: imports, and programs compiled before."""

import contextlib
import gc
import os
import pathlib
from collections.abc import Iterator, MutableMapping


def keep_programs(
  environment: MutableMapping[str, str] = os.environ,
) -> None:
  """Compiled programs are kept for the next command; call before JAX's import.

  They lie in `pav_jax/jax` in the user's cache, which may be deleted.

  Args:
    environment: `JAX_COMPILATION_CACHE_DIR`, where it is set, says where else;
      with `JAX_ENABLE_COMPILATION_CACHE=0` nothing is kept.
  """
  cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
  path = pathlib.Path(cache).expanduser() / "pav_jax" / "jax"
  environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(path))


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
