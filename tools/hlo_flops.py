"""Operations of products of matrices and convolutions in compiled programs."""

import re

from tools.hlo_text import Computation, Instruction, Module


def flops(
  module: Module, computation: Computation, instruction: Instruction
) -> float:
  """A multiplication and an addition are two; what is not a product is none."""
  if instruction.op == "fusion":
    inner = module.computations[instruction.called[0]]
    return sum(flops(module, inner, x) for x in inner.instructions.values())
  if instruction.op == "dot":
    return _of_dot(computation, instruction)
  if instruction.op == "convolution":
    return _of_convolution(computation, instruction)
  return 0.0


def _of_dot(computation: Computation, instruction: Instruction) -> float:
  left = computation.shape(instruction.operands[0])
  number = 2.0 * instruction.shapes[0].size
  contracted = instruction.attribute("lhs_contracting_dims") or "{}"
  for axis in re.findall(r"\d+", contracted):
    number *= left.dims[int(axis)]
  return number


def _of_convolution(
  computation: Computation, instruction: Instruction
) -> float:
  """Pairs of elements that meet; padding is not counted.

  On TPUs products of matrices are convolutions too, whose spatial axes may be
  axes of batches, spread out so that each meets one element of the kernel.
  """
  left_labels, rest = instruction.attribute("dim_labels").split("_")
  right_labels, out_labels = rest.split("->")
  left, right = (computation.shape(x) for x in instruction.operands[:2])
  out = instruction.shapes[0]
  number = 2.0 * out.dims[out_labels.index("b")]
  number *= out.dims[out_labels.index("f")]
  number *= right.dims[right_labels.index("i")]
  for axis, settings in enumerate(_window(instruction, len(left_labels) - 2)):
    sizes = (
      shape.dims[labels.index(str(axis))]
      for shape, labels in (
        (left, left_labels),
        (right, right_labels),
        (out, out_labels),
      )
    )
    number *= _meetings(*sizes, *settings)
  return number


def _window(
  instruction: Instruction, num_axes: int
) -> list[tuple[int, int, int, int]]:
  """Stride, padding before, dilation of input and of kernel, of each axis."""
  match = re.search(r"window=\{([^}]*)\}", instruction.attributes)
  fields = dict(x.split("=") for x in (match[1].split() if match else ()))

  def each(name, default):
    return fields[name].split("x") if name in fields else [default] * num_axes

  return [
    (int(stride), int(pad.split("_")[0]), int(left), int(right))
    for stride, pad, left, right in zip(
      each("stride", "1"),
      each("pad", "0_0"),
      each("lhs_dilate", "1"),
      each("rhs_dilate", "1"),
      strict=True,
    )
  ]


def _meetings(
  left: int,
  right: int,
  out: int,
  stride: int,
  before: int,
  left_dilation: int,
  right_dilation: int,
) -> int:
  """Pairs of places of output and kernel that meet an element of the input."""
  end = (left - 1) * left_dilation + 1
  number = 0
  for place in range(right):
    first = place * right_dilation - before
    if stride == left_dilation == 1:
      number += max(min(end - first, out) - max(-first, 0), 0)
      continue
    number += sum(
      0 <= at < end and at % left_dilation == 0
      for at in range(first, first + out * stride, stride)
    )
  return number
