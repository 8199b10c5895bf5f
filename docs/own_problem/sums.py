"""Sums of five numbers, one addition a line."""

import dataclasses
import random

import gin

from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.prompt_format import Record


@gin.register
@dataclasses.dataclass(frozen=True)
class LastNumber:
  """Right if the number behind the last `=` is."""

  def __call__(self, responses, answers):
    pairs = zip(responses, answers, strict=True)
    return [r.rsplit("=")[-1] == answer for r, answer in pairs]


@gin.register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums(DataProblem):
  """About 9,000 problems, without repetition."""

  def records(self):
    draw = random.Random(0)
    problems = sorted(
      {tuple(draw.choices(range(20), k=5)) for _ in range(9000)}
    )
    records = []
    for numbers in draw.sample(problems, len(problems)):
      lines, total = [], numbers[0]
      for x in numbers[1:]:
        lines.append(f"{total}+{x}={total + x}")
        total += x
      text = "+".join(map(str, numbers))
      records.append(Record(text, text, "\n".join(lines), str(total)))
    return {
      "train": records[1500:],
      "validation": records[:500],
      "test": records[500:1500],
    }
