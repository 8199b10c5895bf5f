"""Whether bound values are of the kinds that annotations name, in words."""

import collections.abc
import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import gin

from pav_jax.cli.bindings import Call, Reference

_WORDS = {
  bool: "True or False",
  float: "a number",
  int: "a whole number",
  str: "text in quotes",
  types.NoneType: "None",
}
_UNIONS = (typing.Union, types.UnionType)


def check(found: Iterable[Call]) -> None:
  """Checks arguments by their annotations, and settings by their classes.

  Args:
    found: from `bindings.calls`.

  Raises:
    ValueError: for an argument of another kind than its annotation names, with
      both; for settings that are numbers alone, as their class says. What has
      texts may have to read files, and says so when it is made.
  """
  for call in found:
    hints = _hints(call.target)
    for parameter, argument in call.arguments.items():
      hint = hints.get(parameter, Any)
      if not fits(argument.value, hint):
        raise ValueError(
          f"{argument.name} is {argument.value!r}, expected {in_words(hint)}"
        )
    values = {name: x.value for name, x in call.arguments.items()}
    if dataclasses.is_dataclass(call.target) and _are_numbers(values):
      call.target(**values)


def fits(value: Any, hint: Any) -> bool:
  """Whether an annotation allows a value; True where it says nothing here.

  Whole numbers are numbers, and lists and tuples are alike. Only annotations of
  numbers, texts, None and lists of them say something here.

  Args:
    value: any; references of gin and `gin.REQUIRED` fit all.
    hint: an annotation.
  """
  if value is gin.REQUIRED or isinstance(value, Reference):
    return True
  origin, inside = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    return fits(value, hint.__metadata__[0])
  if origin in _UNIONS:
    return any(fits(value, one) for one in inside)
  if origin is typing.Literal:
    return value in inside
  if origin is tuple or origin in (list, collections.abc.Sequence):
    if not isinstance(value, list | tuple):
      return False
    if origin is not tuple or inside[1:] == (...,):
      return all(fits(x, inside[0]) for x in value)
    return len(value) == len(inside) and all(map(fits, value, inside))
  if isinstance(value, bool):
    return hint not in (int, float, str, types.NoneType)
  if hint in (int, float):
    whole = numbers.Integral if hint is int else numbers.Real
    return isinstance(value, whole)
  return hint not in _WORDS or isinstance(value, hint)


def in_words(hint: Any) -> str:
  """What an annotation allows, such as "a whole number or None"."""
  origin, inside = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    return in_words(hint.__metadata__[0])
  if origin in _UNIONS:
    return " or ".join(map(in_words, inside))
  if origin is typing.Literal:
    return " or ".join(map(repr, inside))
  if origin is tuple and inside[1:] != (...,):
    return f"({', '.join(map(in_words, inside))})"
  if origin is tuple or origin in (list, collections.abc.Sequence):
    return f"a list, each of it {in_words(inside[0])}"
  return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


@functools.cache
def _hints(target: Any) -> Mapping[str, Any]:
  try:
    return typing.get_type_hints(target, include_extras=True)
  except NameError:  # imported for type checkers alone
    return {}


def _are_numbers(value: Any) -> bool:
  if isinstance(value, dict):
    return all(map(_are_numbers, value.values()))
  if isinstance(value, list | tuple):
    return all(map(_are_numbers, value))
  return value is None or isinstance(value, numbers.Real)
