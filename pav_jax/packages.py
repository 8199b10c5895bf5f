"""Packages that only a part of the library needs."""

import importlib
import importlib.util
import types
from collections.abc import Callable
from typing import Any, TypeVar

Fn = TypeVar("Fn", bound=Callable[..., Any])


class MissingPackageError(ImportError):
  """A package is not installed; the message says how to install it."""


def require(module: str, *, package: str, purpose: str) -> types.ModuleType:
  """Imports a module of a package that may be missing.

  Args:
    module: the module's name.
    package: what `pip install` knows the package by.
    purpose: what needs it, as the message begins.

  Raises:
    MissingPackageError: if the module cannot be imported.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise MissingPackageError(
      f"{purpose} needs {package}, which cannot be imported ({error}): "
      f"pip install {package}"
    ) from error


def require_installed(module: str, *, package: str, purpose: str) -> None:
  """Checks that a package is there, without importing it.

  Args:
    module: the name of a package's top module.
    package: what `pip install` knows the package by.
    purpose: what needs it, as the message begins.

  Raises:
    MissingPackageError: if there is no such module.
  """
  if importlib.util.find_spec(module) is None:
    raise MissingPackageError(
      f"{purpose} needs {package}, which is not installed: pip install "
      f"{package}"
    )


def needs(module: str, *, package: str, purpose: str) -> Callable[[Fn], Fn]:
  """Decorates a function that gets to a package only after long work.

  Args:
    module: as of `require_installed`, as are the others.
    package: what `pip install` knows the package by.
    purpose: what needs it.
  """

  def mark(fn: Fn) -> Fn:
    fn.needed = {"module": module, "package": package, "purpose": purpose}
    return fn

  return mark


def check_needs(fn: Callable[..., Any]) -> None:
  """Checks that what `needs` says of a function is there.

  Raises:
    MissingPackageError: if it is not.
  """
  if needed := getattr(fn, "needed", None):
    require_installed(**needed)
