"""What the compiler says of a program: does it fit, and what does it cost?"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from pav_jax.reporting import progress
from tools import hlo_costs, hlo_text
from tools.hlo_costs import Costs, Loop

GIB = 2**30
TEMPORARIES = "temporaries"


@dataclasses.dataclass(frozen=True)
class Report:
  """Of one program on one chip; sizes in bytes.

  Attributes:
    name: of the program.
    hbm: the chip's main memory.
    parts: large arguments by name.
    beside: what else lies there while the program runs.
    compile_seconds: wall time of tracing and compiling.
    arguments: of all; None if the program does not fit at all.
    temporaries: likewise.
    output: likewise; what takes an argument's place is not counted.
    code: likewise.
    required: what the compiler asked for, where it gave up.
    costs: see `hlo_costs.count`; None if it gave up.
    loops: likewise.
    by_xla: `cost_analysis` as it is: bodies of loops once.
    each: what one iteration of the innermost loop of unknown length is.
  """

  name: str
  hbm: int
  parts: Mapping[str, int]
  beside: Mapping[str, int]
  compile_seconds: float
  arguments: int | None = None
  temporaries: int | None = None
  output: int | None = None
  code: int | None = None
  required: int | None = None
  costs: Costs | None = None
  loops: tuple[Loop, ...] = ()
  by_xla: Mapping[str, float] = dataclasses.field(default_factory=dict)
  each: str | None = None

  @property
  def peak(self) -> int:
    """Most bytes in use at a time, with what lies beside."""
    beside = sum(self.beside.values())
    if self.required is not None:
      return self.required + beside
    parts = (self.arguments, self.temporaries, self.output, self.code)
    return sum(parts) + beside

  def fits(self, spare: float = 0.0) -> bool:
    """Whether it fits with that share of the memory to spare."""
    return self.required is None and self.peak <= (1 - spare) * self.hbm

  @property
  def each_costs(self) -> Costs | None:
    """What one iteration costs, of the loop that does most."""
    if not self.loops:
      return None
    return max(self.loops, key=lambda x: x.each.flops).each

  @property
  def contributors(self) -> dict[str, int]:
    """What takes the memory, the largest first."""
    found = {**self.parts, **self.beside}
    rest = self.peak - sum(found.values())
    found[TEMPORARIES] = max(rest, 0)
    if self.temporaries is not None:
      found[TEMPORARIES] = self.temporaries
      found["output"] = self.output
    order = sorted(found, key=lambda name: -found[name])
    return {name: found[name] for name in order if found[name]}


def measure(
  name: str,
  lower: Any,
  *,
  hbm: int,
  parts: Mapping[str, int],
  beside: Mapping[str, int],
  each: str | None = None,
) -> Report:
  """Compiles a program and reads what the compiler says.

  Args:
    name: of the program.
    lower: gives a `jax.stages.Lowered`.
    hbm: see `Report`, like the rest.
    parts: likewise.
    beside: likewise.
    each: likewise.
  """
  start = time.monotonic()
  known = {
    "name": name,
    "hbm": hbm,
    "parts": parts,
    "beside": beside,
    "each": each,
  }
  try:
    with _not_kept():
      compiled = lower().compile()
  except jax.errors.JaxRuntimeError as error:
    required = required_bytes(str(error))
    if required is None:
      raise
    return Report(
      **known, compile_seconds=time.monotonic() - start, required=required
    )
  seconds = time.monotonic() - start
  memory = compiled.memory_analysis()
  costs, loops = hlo_costs.count(hlo_text.parse(compiled.as_text()))
  by_xla = compiled.cost_analysis() or {}
  wanted = ("flops", "bytes accessed", "optimal_seconds")
  return Report(
    **known,
    compile_seconds=seconds,
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    output=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    costs=costs,
    loops=loops,
    by_xla={key: by_xla[key] for key in wanted if key in by_xla},
  )


@contextlib.contextmanager
def _not_kept() -> Iterator[None]:
  """What is compiled for devices that are not there cannot be read again."""
  name = "jax_persistent_cache_min_compile_time_secs"
  before = getattr(jax.config, name)
  jax.config.update(name, float("inf"))
  try:
    yield
  finally:
    jax.config.update(name, before)


def required_bytes(message: str) -> int | None:
  """What a program needs, of the compiler's error; None if it is another.

  "Ran out of memory on HBM, the total memory required … (30.48G) exceeds
  available HBM (15.75G)", and the forms of other versions.
  """
  if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
    return None
  match = re.search(r"required[^()]*\(([\d.]+)([KMG])\)", message)
  match = match or re.search(r"Used ([\d.]+)([KMG]) of", message)
  if not match:
    return None
  return int(float(match[1]) * 1024 ** ("KMG".index(match[2]) + 1))


def verdict(
  report: Report, *, spare: float = 0.0, remedies: Sequence[str] = ()
) -> str:
  """One or two plain sentences: does it fit, and if not, what would help?"""
  size = f"{report.peak / GIB:.2f} GiB a chip of {report.hbm / GIB:.2f} GiB"
  if report.fits(spare):
    return f"{report.name} fits: {size}."
  largest = ", ".join(
    f"{name} {number / GIB:.2f} GiB"
    for name, number in list(report.contributors.items())[:3]
  )
  but = f" with {spare:.0%} to spare" if spare else ""
  text = f"{report.name} does not fit{but}: {size}; the largest are {largest}."
  if remedies:
    text += f" What would help: {'; '.join(remedies)}."
  return text


def print_table(reports: Sequence[Report], clock: float) -> None:
  """Memory, costs and collectives of programs.

  Args:
    reports: of programs.
    clock: cycles a second.
  """
  progress.table(
    "memory of a chip, GiB",
    ["", "arguments", "temporaries", "output", "code", "beside", "sum", "HBM"],
    [
      [
        report.name,
        *(
          "-" if number is None else f"{number / GIB:.2f}"
          for number in (
            report.arguments,
            report.temporaries,
            report.output,
            report.code,
            sum(report.beside.values()),
            report.peak,
            report.hbm,
          )
        ),
      ]
      for report in reports
    ],
  )
  done = [report for report in reports if report.costs is not None]
  progress.table(
    "costs of a chip; loops of known length counted in full, others once",
    ["", "TFLOP", "GB moved", "GB sent", "estimate, ms", "compiled in, s"],
    [
      row
      for report in done
      for row in (
        _costs(report.name, report.costs, clock, report.compile_seconds),
        *_each(report, clock),
      )
    ],
  )
  progress.table(
    "collectives of a chip",
    ["", "number", "MB", "largest, MB", "in a loop"],
    [
      [
        f"{report.name}: {sent.kind}",
        f"{sent.count:.0f}",
        f"{sent.num_bytes / 1e6:.2f}",
        f"{sent.largest / 1e6:.2f}",
        "yes" if sent.in_loop else "no",
      ]
      for report in done
      for sent in report.costs.sent
    ],
  )


def _each(report: Report, clock: float) -> list[list[str]]:
  if report.each is None or report.each_costs is None:
    return []
  return [_costs(f"  each {report.each}", report.each_costs, clock, None)]


def _costs(
  name: str, costs: Costs, clock: float, seconds: float | None
) -> list[str]:
  return [
    name,
    f"{costs.flops / 1e12:.4g}",
    f"{costs.hbm_bytes / 1e9:.3f}",
    f"{costs.sent_bytes / 1e9:.3f}",
    f"{costs.cycles / clock * 1e3:.2f}" if costs.cycles else "-",
    "" if seconds is None else f"{seconds:.1f}",
  ]
