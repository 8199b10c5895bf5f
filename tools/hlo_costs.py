"""What a compiled program computes, reads and sends, its loops counted.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs.
Here a body counts as often as the loop's condition says. Where that depends on
data (steps of training, tokens of a response) it counts once, and the loop is
listed with what one iteration costs.
"""

import dataclasses
import re
from collections.abc import Iterable

from tools.hlo_flops import flops
from tools.hlo_loops import body_of, trip_count
from tools.hlo_text import COLLECTIVES, Computation, Instruction, Module
from tools.hlo_traffic import traffic


@dataclasses.dataclass(frozen=True)
class Sent:
  """What one kind of collective sends.

  Attributes:
    kind: of `COLLECTIVES`.
    count: how often.
    num_bytes: in sum, of each the larger of what goes in and comes out.
    largest: bytes of the largest one.
    in_loop: whether that is within a loop.
  """

  kind: str
  count: int
  num_bytes: int
  largest: int
  in_loop: bool = False


@dataclasses.dataclass(frozen=True)
class Costs:
  """Of a program, or of one iteration of a loop, on one chip; add with `+`.

  Attributes:
    flops: of products of matrices and convolutions.
    hbm_bytes: read from and written to main memory.
    cycles: the compiler's own estimates, summed; 0 where it makes none.
    sent: by collectives.
  """

  flops: float = 0.0
  hbm_bytes: float = 0.0
  cycles: float = 0.0
  sent: tuple[Sent, ...] = ()

  def __add__(self, other: "Costs") -> "Costs":
    return Costs(
      self.flops + other.flops,
      self.hbm_bytes + other.hbm_bytes,
      self.cycles + other.cycles,
      _merged((*self.sent, *other.sent)),
    )

  def in_loop(self, number: int) -> "Costs":
    """Of a loop of which these are an iteration's."""
    sent = (
      Sent(x.kind, x.count * number, x.num_bytes * number, x.largest, True)
      for x in self.sent
    )
    return Costs(
      self.flops * number,
      self.hbm_bytes * number,
      self.cycles * number,
      _merged(sent),
    )

  @property
  def sent_bytes(self) -> int:
    """By all collectives."""
    return sum(x.num_bytes for x in self.sent)


@dataclasses.dataclass(frozen=True)
class Loop:
  """A loop whose length depends on data.

  Attributes:
    name: where in the source program it is.
    each: what an iteration costs; such loops in it count once.
  """

  name: str
  each: Costs


def count(module: Module) -> tuple[Costs, tuple[Loop, ...]]:
  """Costs of a program, and its loops of unknown length, inner ones first.

  Of branches the one with most operations counts.
  """
  loops: list[Loop] = []
  return _of_computation(module, module.entry, loops), tuple(loops)


def _of_computation(module: Module, name: str, loops: list[Loop]) -> Costs:
  computation = module.computations[name]
  total = Costs()
  for instruction in computation.instructions.values():
    total += _own(module, computation, instruction)
    if instruction.op == "while":
      each = _of_computation(module, body_of(instruction), loops)
      number = trip_count(module, computation, instruction)
      if number is None:
        loops.append(Loop(instruction.op_name, each))
      total += each.in_loop(1 if number is None else number)
    elif instruction.op == "conditional":
      branches = [_of_computation(module, x, loops) for x in instruction.called]
      total += max(branches, key=lambda x: (x.flops, x.hbm_bytes))
    elif instruction.op in ("call", "async-start"):
      for called in instruction.called:
        total += _of_computation(module, called, loops)
  return total


def _own(
  module: Module, computation: Computation, instruction: Instruction
) -> Costs:
  cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
  return Costs(
    flops(module, computation, instruction),
    traffic(module, computation, instruction),
    float(cycles[1]) if cycles else 0.0,
    _merged(_sent(module, computation, instruction)),
  )


def _sent(
  module: Module, computation: Computation, instruction: Instruction
) -> list[Sent]:
  """By a collective, or by a fusion that begins one.

  A collective that runs beside others is printed as a fusion that begins it,
  some that go on with it, and one that ends it, each with the whole.
  """
  if instruction.op == "fusion":
    inner = module.computations[instruction.called[0]]
    inside = inner.instructions.values()
    if not any("AsyncCollectiveStart" in x.attributes for x in inside):
      return []
    return [sent for x in inside for sent in _sent(module, inner, x)]
  kind = instruction.op.removesuffix("-start")
  if kind not in COLLECTIVES:
    return []
  before = [computation.shape(x) for x in instruction.operands]
  after = instruction.shapes
  if instruction.op.endswith("-start") and len(after) > len(before):
    after = after[len(before) : 2 * len(before)]
  size = max(sum(x.num_bytes for x in side if x) for side in (before, after))
  return [Sent(kind, 1, size, size)]


def _merged(sent: Iterable[Sent]) -> tuple[Sent, ...]:
  """One of each kind in loops, and one outside."""
  found: dict[tuple[str, bool], Sent] = {}
  for x in sent:
    old = found.get(key := (x.kind, x.in_loop), Sent(x.kind, 0, 0, 0))
    found[key] = Sent(
      x.kind,
      x.count + old.count,
      x.num_bytes + old.num_bytes,
      max(x.largest, old.largest),
      x.in_loop,
    )
  return tuple(found[key] for key in sorted(found))
