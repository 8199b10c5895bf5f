"""A problem of which importers need no more than its tokens."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class PlainText:
  """Prompts are problems' texts as they are.

  Attributes:
    vocabulary: has `encode` and `decode`.
    delimiter: ends a step.
  """

  vocabulary: Any
  delimiter: str = "\n"

  def encode_problem(self, problem: str) -> list[int]:
    """The ids of the text."""
    return self.vocabulary.encode(problem)

  def decode_problem(self, tokens: Any) -> str:
    """The text of the ids."""
    return self.vocabulary.decode([int(token) for token in tokens])
