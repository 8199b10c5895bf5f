"""Objects as bytes between processes: JSON and the bytes of arrays, no code.

Numbers, texts, None, lists, tuples, dictionaries, numpy's and JAX's arrays and
dataclasses of these come out as they went in. A dataclass is made anew by its
constructor, and only if the receiver has imported it itself.
"""

import dataclasses
import json
import struct
import sys
from typing import Any

import jax
import numpy as np

_LENGTH = struct.Struct("<Q")


def encode(value: Any) -> bytes:
  """The bytes of a value.

  Raises:
    ValueError: naming the type of what cannot be sent.
  """
  arrays: list[bytes] = []
  text = json.dumps(_pack(value, arrays)).encode()
  return _LENGTH.pack(len(text)) + text + b"".join(arrays)


def decode(data: bytes) -> Any:
  """The inverse of `encode`.

  Raises:
    ValueError: if these are not its bytes.
  """
  begin = _LENGTH.size + _LENGTH.unpack_from(data)[0]
  value, end = _unpack(json.loads(data[_LENGTH.size : begin]), data, begin)
  if end != len(data):
    raise ValueError(f"a message has {len(data)} bytes, expected {end}")
  return value


def _pack(value: Any, arrays: list[bytes]) -> Any:
  """What JSON has, lists tagged by what they are."""
  if value is None or type(value) in (bool, int, float, str):
    return value
  if type(value) in (list, tuple):
    return [type(value).__name__, [_pack(x, arrays) for x in value]]
  if type(value) is dict:
    pairs = [[_pack(x, arrays) for x in pair] for pair in value.items()]
    return ["dict", pairs]
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = [
      [field.name, _pack(getattr(value, field.name), arrays)]
      for field in dataclasses.fields(value)
      if field.init
    ]
    kind = type(value)
    return ["dataclass", kind.__module__, kind.__qualname__, fields]
  if isinstance(value, np.ndarray | np.generic | jax.Array):
    scalar = isinstance(value, np.generic)
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.names:
      raise ValueError(f"an array of {array.dtype} cannot be sent to processes")
    arrays.append(np.ascontiguousarray(array).tobytes())
    return ["array", array.dtype.name, list(array.shape), scalar]
  raise ValueError(
    f"a {type(value).__name__} cannot be sent to other processes, expected "
    "numbers, texts, arrays, and lists, dictionaries and dataclasses of these"
  )


def _unpack(value: Any, data: bytes, at: int) -> tuple[Any, int]:
  """The value, and where in `data` the next array begins."""
  if not isinstance(value, list):
    return value, at
  kind, *rest = value
  if kind == "array":
    name, shape, scalar = rest
    dtype = np.dtype(name)
    end = at + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    array = np.frombuffer(data[at:end], dtype).reshape(shape).copy()
    return (array[()] if scalar else array), end
  if kind == "dataclass":
    module, qualname, fields = rest
    cls = getattr(sys.modules.get(module), qualname, None)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
      raise ValueError(
        f"another process sent a {module}.{qualname}, which this one lacks"
      )
    arguments = {}
    for name, field in fields:
      arguments[name], at = _unpack(field, data, at)
    return cls(**arguments), at
  items = []
  for item in rest[0]:
    if kind == "dict":
      key, at = _unpack(item[0], data, at)
      content, at = _unpack(item[1], data, at)
      items.append((key, content))
    else:
      content, at = _unpack(item, data, at)
      items.append(content)
  return {"list": list, "tuple": tuple, "dict": dict}[kind](items), at
