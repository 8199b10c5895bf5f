"""Compiled programs as XLA prints them, read into instructions.

Enough of the language for counting: shapes and where they lie, operands, and
the computations that instructions call. Nothing is executed.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)

_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|branch_computations|true_computation|"
  r"false_computation|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class ArrayShape:
  """An array's type.

  Attributes:
    dtype: as XLA names it.
    dims: sizes.
    space: memory that it lies in, 0 for the chip's main memory (HBM).
  """

  dtype: str
  dims: tuple[int, ...]
  space: int = 0

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.dims)

  @property
  def num_bytes(self) -> int:
    """Bytes, without padding."""
    return self.size * _bits(self.dtype) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction.

  Attributes:
    name: unique within its computation.
    op: such as "fusion".
    shapes: of the result; the leaves of a tuple.
    operands: names.
    literal: what stands in the parentheses, for constants and parameters.
    attributes: the rest of the line.
  """

  name: str
  op: str
  shapes: tuple[ArrayShape, ...]
  operands: tuple[str, ...]
  literal: str
  attributes: str

  @property
  def called(self) -> tuple[str, ...]:
    """Names of the computations that it calls, conditions left out."""
    found = []
    for match in _CALLED.finditer(self.attributes):
      if not match[0].startswith("condition="):
        found += re.findall(r"[\w.\-]+", match[1])
    return tuple(found)

  def attribute(self, name: str) -> str | None:
    """The value of `name=…`, up to a comma or blank."""
    match = re.search(
      rf"(?:^|[ ,]){name}=(\{{[^}}]*\}}|[^ ,]+)", self.attributes
    )
    return match[1] if match else None

  @property
  def op_name(self) -> str:
    """Where in the source program it comes from; "" if it does not say."""
    match = re.search(r'op_name="([^"]*)"', self.attributes)
    return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name, in the order in which they are scheduled.

  Attributes:
    instructions: all.
    root: the name of the one whose result is the computation's.
  """

  instructions: Mapping[str, Instruction]
  root: str

  def shape(self, name: str) -> ArrayShape | None:
    """Of an instruction's result, a tuple's first; None if there is none."""
    found = self.instructions.get(name)
    return found.shapes[0] if found and found.shapes else None

  def users(self, name: str) -> tuple[Instruction, ...]:
    """The instructions that have it for an operand."""
    return self._users.get(name, ())

  @functools.cached_property
  def _users(self) -> dict[str, tuple[Instruction, ...]]:
    found: dict[str, tuple[Instruction, ...]] = {}
    for user in self.instructions.values():
      for operand in dict.fromkeys(user.operands):
        found[operand] = (*found.get(operand, ()), user)
    return found


@dataclasses.dataclass(frozen=True)
class Module:
  """A program: its computations, and the one that is run."""

  computations: Mapping[str, Computation]
  entry: str


def parse(text: str) -> Module:
  """Reads what `jax.stages.Compiled.as_text` gives.

  Raises:
    ValueError: if there is no entry computation.
  """
  computations, entry = {}, None
  name, instructions, root = None, {}, None
  for line in text.splitlines():
    if name is None:
      if match := _COMPUTATION.match(line):
        name, instructions, root = match[2], {}, None
        entry = name if match[1] else entry
      continue
    if line.startswith("}"):
      computations[name] = Computation(instructions, root)
      name = None
    elif match := _INSTRUCTION.match(line):
      found = _instruction(match[2], match[3])
      if found:
        instructions[found.name] = found
        root = found.name if match[1] or root is None else root
  if entry not in computations:
    raise ValueError(
      "text has no ENTRY computation, expected a compiled module"
    )
  return Module(computations, entry)


def shapes(text: str) -> tuple[ArrayShape, ...]:
  """The arrays of a printed type, `f32[2,3]{1,0:T(8,128)S(1)}` or a tuple."""
  found = []
  for dtype, dims, layout in _ARRAY.findall(text):
    space = _SPACE.search(layout)
    sizes = tuple(int(re.sub(r"\D", "", x)) for x in dims.split(",") if x)
    found.append(ArrayShape(dtype, sizes, int(space[1]) if space else 0))
  return tuple(found)


def _bits(dtype: str) -> int:
  if dtype in _BITS:
    return _BITS[dtype]
  match = re.search(r"\d+", dtype)
  return int(match[0]) if match else 0


def _closing(text: str, start: int) -> int:
  """The index of the parenthesis that closes the one at `start`."""
  depth = 0
  for at in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[at], 0)
    if not depth:
      return at
  return len(text) - 1


def _instruction(name: str, rest: str) -> Instruction | None:
  rest = re.sub(r"/\*.*?\*/", "", rest)
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
  kind, rest = rest[:end], rest[end:].lstrip()
  match = re.match(r"([\w\-]+)\(", rest)
  if not match:
    return None
  close = _closing(rest, match.end() - 1)
  inside = rest[match.end() : close]
  return Instruction(
    name=name,
    op=match[1],
    shapes=shapes(kind),
    operands=tuple(_NAME.findall(inside)),
    literal=inside,
    attributes=rest[close + 1 :],
  )
