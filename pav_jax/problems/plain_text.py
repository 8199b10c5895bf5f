"""A problem of which importers need no more than its tokens."""

import dataclasses
from typing import Any

from pav_jax.problems import vocabulary as vocabularies


@dataclasses.dataclass(frozen=True)
class PlainText:
  """Prompts are problems' texts as they are.

  Benchmarks of steps are encoded by it for public reward models, which have a
  way of their own to ask (`provers.public`).

  Attributes:
    vocabulary: has `encode` and `decode`.
    delimiter: ends a step.
  """

  vocabulary: Any
  delimiter: str = "\n"

  @property
  def fingerprint(self) -> str:
    """Identifies vocabulary and delimiter, see `vocabulary.fingerprint`."""
    return vocabularies.fingerprint(self.vocabulary, self.delimiter)

  def encode_problem(self, problem: str) -> list[int]:
    """The ids of the text."""
    return self.vocabulary.encode(problem)

  def decode_problem(self, tokens: Any) -> str:
    """The text of the ids."""
    return self.vocabulary.decode([int(token) for token in tokens])
