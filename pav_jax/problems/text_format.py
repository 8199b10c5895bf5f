"""How a checkpoint reads texts: what is kept beside it, and made of that again.

A problem's class and records stay where they are. What a policy or verifier was
trained on is said by its tokenizer, the delimiter of steps, what stands around
a problem's text, and two limits.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from pav_jax.checks import check_least
from pav_jax.problems import base
from pav_jax.problems import vocabulary as vocabularies
from pav_jax.problems.base import PromptFrame, Tokens

# In a checkpoint's side file.
TEXT, TOKENIZER = "text", "tokenizer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFormat:
  """The part of a text problem that is about texts, for texts of any problem.

  Attributes:
    vocabulary: the tokenizer.
    delimiter: ends a step.
    frame: what stands around a problem's text in its prompt.
    max_response_len: most tokens of a response, the end token included.
    max_steps: H, most steps of a response.
    prompt_len: least room for a prompt.

  Raises:
    ValueError: if a number is not positive.
  """

  vocabulary: Any
  delimiter: str = "\n"
  frame: PromptFrame = dataclasses.field(default_factory=PromptFrame)
  max_response_len: int = 512
  max_steps: int = 32
  prompt_len: int = 1

  def __post_init__(self):
    check_least(
      1, max_response_len=self.max_response_len, max_steps=self.max_steps
    )

  @functools.cached_property
  def ends_step(self) -> Bool[np.ndarray, "V"]:
    """Which tokens end a step."""
    return vocabularies.delimiter_table(self.vocabulary, self.delimiter)

  @functools.cached_property
  def fingerprint(self) -> str:
    """Identifies vocabulary and delimiter, see `vocabulary.fingerprint`."""
    return vocabularies.fingerprint(self.vocabulary, self.delimiter)

  def encode_problem(self, problem: str) -> list[int]:
    """The ids of a problem's prompt.

    Raises:
      ValueError: if the prompt has no token, or a text that has none.
    """
    text = self.frame.before + problem + self.frame.after
    return vocabularies.encode_prompt(self.vocabulary, text)

  def decode_problem(self, tokens: Tokens) -> str:
    """The text of the problem that `encode_problem` has encoded."""
    text = self.vocabulary.decode(np.asarray(tokens).tolist())
    begin, end = len(self.frame.before), len(text) - len(self.frame.after)
    return text[begin:end]


def saved(
  problem: Any, *, max_response_len: int, max_steps: int
) -> dict[str, Any]:
  """What is kept beside a model's weights, to be written as JSON.

  Args:
    problem: a text problem that the model was trained on.
    max_response_len: most tokens of a response.
    max_steps: most steps of a response.

  Returns:
    `vocabulary.identity`, and what `read` and readers of tokenizers need.

  Raises:
    ValueError: if the vocabulary cannot produce the delimiter.
  """
  vocabulary, frame = problem.vocabulary, base.prompt_frame(problem)
  return vocabularies.identity(vocabulary, problem.delimiter) | {
    TEXT: {
      "before": frame.before,
      "after": frame.after,
      "stop": frame.stop,
      "max_response_len": max_response_len,
      "max_steps": max_steps,
    },
    TOKENIZER: _settings(vocabulary),
  }


def read(side: Mapping[str, Any], vocabulary: Any) -> TextFormat:
  """What `saved` has described.

  Args:
    side: what it returned.
    vocabulary: that was described in it.

  Raises:
    ValueError: if the description lacks a part, or is of another vocabulary.
  """
  try:
    text, delimiter = side[TEXT], side["delimiter"]
    made = TextFormat(
      vocabulary=vocabulary,
      delimiter=delimiter,
      frame=PromptFrame(text["before"], text["after"], text["stop"]),
      max_response_len=text["max_response_len"],
      max_steps=text["max_steps"],
    )
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"pav_jax.json lacks {error}, expected what a run writes"
    ) from error
  if made.fingerprint != side["fingerprint"]:
    raise ValueError(
      f"the tokenizer has the fingerprint {made.fingerprint}, expected "
      f"{side['fingerprint']}, that of the model's"
    )
  return made


def _settings(vocabulary: Any) -> dict[str, Any]:
  """The settings of a vocabulary by which it is made again, but for its path.

  Those that JSON has no form for are left out.
  """
  if not dataclasses.is_dataclass(vocabulary):
    return {}
  settings = {
    field.name: getattr(vocabulary, field.name)
    for field in dataclasses.fields(vocabulary)
    if field.name != "path"
  }
  return {
    name: value
    for name, value in settings.items()
    if json.loads(json.dumps(value, default=repr)) == value
  }
