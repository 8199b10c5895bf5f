"""How often loops of compiled programs run, where that is written down."""

import re

from tools.hlo_text import Computation, Instruction, Module

_MOVES = ("copy", "bitcast", "convert")


def body_of(loop: Instruction) -> str:
  """The name of a loop's body."""
  return loop.attribute("body").lstrip("%")


def trip_count(
  module: Module, computation: Computation, loop: Instruction
) -> int | None:
  """How often a loop runs; None if that depends on data.

  A loop that counts runs until its counter, to which a constant is added each
  time, reaches a constant. What the counter begins with is 0 where the loop's
  operand does not say.

  Args:
    module: the program.
    computation: that has the loop.
    loop: an instruction "while".
  """
  known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes)
  if known:
    return int(known[1])
  condition = module.computations[loop.attribute("condition").lstrip("%")]
  root = condition.instructions[condition.root]
  test, sides = _parts(module, condition, root)
  if test is None or test.op != "compare":
    return None
  direction = test.attribute("direction")
  if direction == "GT":
    sides.reverse()
  elif direction != "LT":
    return None
  counter, limit = sides
  if counter is None or counter.op != "get-tuple-element":
    return None
  if limit is None or limit.op != "constant":
    return None
  index = int(counter.attribute("index"))
  step = _step(module, module.computations[body_of(loop)], index)
  if step is None:
    return None
  number = int(limit.literal) - _first(computation, loop, index)
  return max(-(-number // step), 0)


def _resolved(computation: Computation, name: str) -> Instruction | None:
  """What an operand is, behind copies."""
  found = computation.instructions.get(name)
  while found is not None and found.op in _MOVES:
    found = computation.instructions.get(found.operands[0])
  return found


def _parts(
  module: Module, computation: Computation, instruction: Instruction
) -> tuple[Instruction | None, list[Instruction | None]]:
  """An instruction and its operands, out of a fusion around it if need be."""
  if instruction.op != "fusion":
    sides = [_resolved(computation, x) for x in instruction.operands]
    return instruction, sides
  inner = module.computations[instruction.called[0]]
  root = inner.instructions[inner.root]
  sides = []
  for name in root.operands:
    found = _resolved(inner, name)
    if found is not None and found.op == "parameter":
      outer = instruction.operands[int(found.literal)]
      found = _resolved(computation, outer)
    sides.append(found)
  return root, sides


def _step(module: Module, body: Computation, index: int) -> int | None:
  """What an iteration adds to the counter; None if it is no constant."""
  root = body.instructions[body.root]
  if root.op != "tuple":
    return None
  total, found = 0, _resolved(body, root.operands[index])
  while found is not None and found.op != "get-tuple-element":
    addition, sides = _parts(module, body, found)
    if addition is None or addition.op != "add" or None in sides:
      return None
    constants = [x for x in sides if x.op == "constant"]
    others = [x for x in sides if x.op != "constant"]
    if len(constants) != 1 or len(others) != 1:
      return None
    total += int(constants[0].literal)
    found = others[0]
  return total if found is not None and total > 0 else None


def _first(computation: Computation, loop: Instruction, index: int) -> int:
  source = _resolved(computation, loop.operands[0])
  if source is None or source.op != "tuple":
    return 0
  value = _resolved(computation, source.operands[index])
  if value is None or value.op != "constant":
    return 0
  return int(value.literal)
