"""Bytes between main memory (HBM) and the rest of a chip.

What lies in another memory of the chip costs nothing here. A fusion reads of an
array what it slices out of it, and of an update in place it writes the update.
"""

import dataclasses

from tools.hlo_text import (
  COLLECTIVES,
  ArrayShape,
  Computation,
  Instruction,
  Module,
)

# What moves nothing itself.
_FREE = frozenset(
  [
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "iota",
    "async-update",
  ]
)
_SLICES = ("dynamic-slice", "gather", "slice")


def traffic(
  module: Module, computation: Computation, instruction: Instruction
) -> float:
  """Bytes that an instruction reads and writes; not those of its loops."""
  op = instruction.op
  if op in _FREE or op.endswith("-done"):
    return 0.0
  if "AllocateBuffer" in instruction.attributes:
    return 0.0
  if op.endswith("-start"):
    return _of_start(computation, instruction)
  if op == "fusion":
    return _of_fusion(module, computation, instruction)
  shapes = [computation.shape(x) for x in instruction.operands]
  written = sum(map(_bytes, instruction.shapes))
  if op in _SLICES:
    return written if _elsewhere(shapes[0]) else 2 * written
  if op == "dynamic-update-slice":
    return 2 * _bytes(shapes[1])
  return written + sum(map(_bytes, shapes))


def _elsewhere(shape: ArrayShape | None) -> bool:
  return shape is None or shape.space != 0


def _bytes(shape: ArrayShape | None) -> float:
  return 0.0 if _elsewhere(shape) else float(shape.num_bytes)


def _of_start(computation: Computation, instruction: Instruction) -> float:
  """Of what runs beside others. Its result names operands, then results."""
  sources = [computation.shape(x) for x in instruction.operands]
  number = len(sources)
  results = instruction.shapes[number : 2 * number] or instruction.shapes
  if instruction.op == "slice-start":
    sources = [
      source and dataclasses.replace(source, dims=result.dims)
      for source, result in zip(sources, results, strict=False)
    ]
  return sum(map(_bytes, sources)) + sum(map(_bytes, results))


def _of_fusion(
  module: Module, computation: Computation, instruction: Instruction
) -> float:
  inner = module.computations[instruction.called[0]]
  total = _written(module, inner, instruction.shapes)
  for parameter in inner.instructions.values():
    if parameter.op == "parameter":
      outer = instruction.operands[int(parameter.literal)]
      if not _elsewhere(shape := computation.shape(outer)):
        total += _read(module, inner, parameter.name, shape)
  return total


def _read(
  module: Module, inner: Computation, name: str, whole: ArrayShape
) -> float:
  """How much a fused computation reads of what it knows by a name."""
  total = 0.0
  for user in inner.users(name):
    first = user.operands[0] == name
    if user.op == "bitcast":
      total += _read(module, inner, user.name, whole)
    elif user.op in _SLICES and first:
      total += user.shapes[0].num_bytes
    elif user.op == "fusion":
      called = module.computations[user.called[0]]
      for x in called.instructions.values():
        if x.op == "parameter" and user.operands[int(x.literal)] == name:
          total += _read(module, called, x.name, whole)
    elif user.op in (*COLLECTIVES, "tuple"):
      continue  # a collective that goes on beside the fusion
    elif not (user.op == "dynamic-update-slice" and first):
      return float(whole.num_bytes)
  return min(total, float(whole.num_bytes))


def _written(
  module: Module, inner: Computation, shapes: tuple[ArrayShape, ...]
) -> float:
  root = inner.instructions[inner.root]
  names = root.operands if root.op == "tuple" else (root.name,)
  if len(names) != len(shapes):
    return sum(map(_bytes, shapes))
  return sum(
    _of_result(module, inner, name, shape)
    for name, shape in zip(names, shapes, strict=True)
  )


def _of_result(
  module: Module, inner: Computation, name: str, shape: ArrayShape
) -> float:
  if _elsewhere(shape):
    return 0.0
  found = inner.instructions[name]
  while found.op == "bitcast":
    found = inner.instructions[found.operands[0]]
  if found.op == "dynamic-update-slice":
    return float(inner.shape(found.operands[1]).num_bytes)
  if found.op in COLLECTIVES or found.op == "parameter":
    return 0.0
  if found.op == "fusion":
    called = module.computations[found.called[0]]
    return _written(module, called, (shape,))
  return _bytes(shape)
