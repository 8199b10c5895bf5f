"""Values that gin has bound, with others in the place of some."""

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import gin

Reference = gin.config.ConfigurableReference


def bound(
  name: str, stand_ins: Mapping[str, Callable[..., Any]]
) -> dict[str, Any]:
  """The arguments that gin would call a configurable with.

  Args:
    name: of the configurable, perhaps with a scope.
    stand_ins: functions that are called instead of configurables of these
      names, with their arguments; one with a true attribute `lazy` without
      arguments, which are then not evaluated.

  Raises:
    ValueError: for a value that is required and not bound.
  """
  found = gin.get_bindings(name, resolve_references=False)
  return {
    parameter: resolve(value, stand_ins) for parameter, value in found.items()
  }


def resolve(value: Any, stand_ins: Mapping[str, Callable[..., Any]]) -> Any:
  """A bound value, with what it refers to."""
  if isinstance(value, list | tuple):
    return type(value)(resolve(x, stand_ins) for x in value)
  if isinstance(value, dict):
    return {key: resolve(x, stand_ins) for key, x in value.items()}
  if not isinstance(value, Reference):
    return value
  selector = value.configurable.selector
  name = selector.rsplit(".", 1)[-1]
  if selector == "gin.constant" or not value.evaluate:
    return copy.deepcopy(value)
  with contextlib.ExitStack() as stack:
    if value.scopes:  # a list replaces the present scope, as gin does here
      stack.enter_context(gin.config_scope(list(value.scopes)))
    if selector == "gin.macro":
      return _macro(value, stand_ins)
    if name in stand_ins and getattr(stand_ins[name], "lazy", False):
      return stand_ins[name]()
    arguments = bound(selector, stand_ins)
    if name in stand_ins:
      return stand_ins[name](**arguments)
    # What gin has wrapped would evaluate its bindings once more.
    return value.configurable.wrapped(**arguments)


def missing(selector: str, supplied: Container[str] = ()) -> Iterator[str]:
  """Names that have to be bound before a configurable can be called.

  What is handed on without being called, `@name` without `()`, gets further
  arguments from whoever calls it, and is not looked into.

  Args:
    selector: of the configurable.
    supplied: its parameters that the caller gives.

  Yields:
    Macros that are not bound or are `%gin.REQUIRED`, as `NAME`, and parameters
    without value, as `name.parameter`; each perhaps more than once.
  """
  bindings = gin.get_bindings(selector, resolve_references=False)
  for value in bindings.values():
    yield from _missing_in(value)
  for name, is_required in parameters(selector).items():
    if is_required and name not in bindings and name not in supplied:
      yield f"{selector.rsplit('.', 1)[-1]}.{name}"


def parameters(selector: str) -> dict[str, bool]:
  """Names that a configurable takes, and whether it has to be given them."""
  configurable = gin.get_configurable(selector)
  if dataclasses.is_dataclass(configurable):
    absent = dataclasses.MISSING
    return {
      field.name: field.default is absent and field.default_factory is absent
      for field in dataclasses.fields(configurable)
      if field.init
    }
  named = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
  )
  return {
    name: parameter.default is parameter.empty
    for name, parameter in inspect.signature(configurable).parameters.items()
    if parameter.kind in named
  }


def _missing_in(value: Any) -> Iterator[str]:
  if isinstance(value, list | tuple):
    for x in value:
      yield from _missing_in(x)
  elif isinstance(value, dict):
    for x in value.values():
      yield from _missing_in(x)
  elif isinstance(value, Reference) and value.evaluate:
    selector, scopes = value.configurable.selector, list(value.scopes)
    if selector == "gin.constant":
      return
    with gin.config_scope(scopes) if scopes else contextlib.nullcontext():
      if selector != "gin.macro":
        yield from missing(selector)
        return
      bound_to = gin.get_bindings("gin.macro", resolve_references=False)
      inside = bound_to.get("value", gin.REQUIRED)
      if inside is gin.REQUIRED or str(inside) == "%gin.REQUIRED":
        yield "/".join(scopes)
      else:
        yield from _missing_in(inside)


def _macro(value: Reference, stand_ins: Mapping[str, Any]) -> Any:
  found = gin.get_bindings("gin.macro", resolve_references=False)
  if "value" not in found:
    raise ValueError(f"the gin name {'/'.join(value.scopes)} is not bound")
  inside = resolve(found["value"], stand_ins)
  if inside is gin.REQUIRED:
    raise ValueError(
      f"{'/'.join(value.scopes)} is required, expected "
      f"--gin.{'/'.join(value.scopes)}=VALUE"
    )
  return inside
