"""Values that gin has bound, with others in the place of some."""

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, NamedTuple

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


class Argument(NamedTuple):
  """What a configurable gets for one of its parameters.

  Attributes:
    name: that is bound to change it: of a macro, or `configurable.parameter`.
    value: as gin has it, past macros; `gin.REQUIRED` if it has to be bound.
  """

  name: str
  value: Any


class Call(NamedTuple):
  """A configurable that the experiment calls.

  Attributes:
    target: the function or class, without what gin has put around it.
    arguments: by parameter, those that are bound or have to be.
  """

  target: Callable[..., Any]
  arguments: dict[str, Argument]


def calls(
  reference: Reference, supplied: Container[str] = ()
) -> Iterator[Call]:
  """What a reference calls, and all that gin calls to make its arguments.

  What is handed on without being called, `@name` without `()`, gets further
  arguments from whoever calls it, and is not looked into.

  Args:
    reference: to a configurable; its scopes count.
    supplied: parameters that the caller gives.

  Yields:
    Each as often as it is called.
  """
  scopes = list(reference.scopes)  # a list replaces the present scope
  with gin.config_scope(scopes) if scopes else contextlib.nullcontext():
    yield from _calls(reference.configurable, supplied)


def _calls(configurable: Any, supplied: Container[str]) -> Iterator[Call]:
  selector = configurable.selector
  bindings = gin.get_bindings(selector, resolve_references=False)
  own = f"{configurable.name}."
  found = {
    name: Argument(f"{own}{name}", gin.REQUIRED)
    for name, is_required in parameters(selector).items()
    if is_required and name not in bindings and name not in supplied
  }
  for parameter, value in bindings.items():
    macro, inside = _past_macros(value)
    found[parameter] = Argument(macro or f"{own}{parameter}", inside)
  yield Call(configurable.wrapped, found)
  for value in bindings.values():
    yield from _calls_in(value)


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


def _calls_in(value: Any) -> Iterator[Call]:
  if isinstance(value, list | tuple):
    for x in value:
      yield from _calls_in(x)
  elif isinstance(value, dict):
    for x in value.values():
      yield from _calls_in(x)
  elif isinstance(value, Reference) and value.evaluate:
    macro, inside = _past_macros(value)
    if inside is gin.REQUIRED:
      yield Call(_past_macros, {"value": Argument(macro, inside)})
    elif macro is not None:
      with gin.config_scope(macro.split("/")):  # which gin calls it in
        yield from _calls_in(inside)
    elif value.configurable.selector != "gin.constant":
      yield from calls(value)


def _past_macros(value: Any) -> tuple[str | None, Any]:
  """The last macro that a value goes through, and what that stands for."""
  name = None
  while isinstance(value, Reference) and (
    value.evaluate and value.configurable.selector == "gin.macro"
  ):
    name = "/".join(value.scopes)
    with gin.config_scope(list(value.scopes)):
      bound_to = gin.get_bindings("gin.macro", resolve_references=False)
    value = bound_to.get("value", gin.REQUIRED)
    if str(value) == "%gin.REQUIRED":
      value = gin.REQUIRED
  return name, value


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
