"""A policy that is asked in words."""

import dataclasses
import os
from typing import Any, overload

import jax
import numpy as np
from jaxtyping import PyTree

from pav_jax import models
from pav_jax.api import beside
from pav_jax.api.answers import Answer, address, answers, listed
from pav_jax.models import hf, sources
from pav_jax.policies.for_problem import language_model
from pav_jax.policies.language_model import LanguageModel
from pav_jax.problems.text_format import TextFormat
from pav_jax.problems.vocabulary import TextTokens


@dataclasses.dataclass(frozen=True)
class TextPolicy:
  """A language model, its parameters, and how it reads texts.

  Attributes:
    name: of its checkpoint.
    model: samples.
    params: of its network.
    text_format: what it was trained on.
  """

  name: str
  model: LanguageModel
  params: PyTree = dataclasses.field(repr=False)
  text_format: TextFormat = dataclasses.field(repr=False)

  def __repr__(self) -> str:
    config, tokenizer = self.model.config, type(self.text_format.vocabulary)
    return (
      f"TextPolicy({self.name!r}, {config.family}, {config.num_layers} layers "
      f"of width {config.width}, {tokenizer.__name__}, responses up to "
      f"{self.model.max_new_tokens} tokens in {self.model.max_steps} steps)"
    )

  @overload
  def sample(
    self,
    question: str,
    n: int = 8,
    *,
    seed: int = 0,
    temperature: float | None = None,
  ) -> list[Answer]: ...

  @overload
  def sample(
    self,
    question: list[str],
    n: int = 8,
    *,
    seed: int = 0,
    temperature: float | None = None,
  ) -> list[list[Answer]]: ...

  def sample(self, question, n=8, *, seed=0, temperature=None):
    """Draws n answers.

    An answer depends on the question, the seed and its number alone, and not
    on what else is asked.

    Args:
      question: a text, or a list of texts.
      n: answers to each question.
      seed: of random numbers.
      temperature: 0 for the most probable tokens; None for the policy's.

    Returns:
      A list of n answers; for a list of questions a list of such lists.

    Raises:
      ValueError: for an empty list, a question without tokens or too long, or
        n < 1.
    """
    questions, alone = listed(question)
    model = self.model
    if temperature is not None:
      model = dataclasses.replace(model, temperature=temperature)
    tokens, length, ids = self.encoded(questions)
    rollout = model.sample(
      self.params, jax.random.key(seed), tokens, length, ids, num_samples=n
    )
    every = answers(
      self.text_format,
      rollout,
      np.asarray(model.has_ended(rollout)),
      [x for x in questions for _ in range(n)],
    )
    rows = [every[i : i + n] for i in range(0, len(every), n)]
    return rows[0] if alone else rows

  def encoded(
    self, questions: list[str]
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts [B, S], how many tokens each has [B], and their addresses [B]."""
    rows = [self.text_format.encode_problem(x) for x in questions]
    length = np.array([len(row) for row in rows], np.int32)
    tokens = np.full(
      (len(rows), length.max()), self.text_format.vocabulary.pad_id, np.int32
    )
    for row, ids in zip(tokens, rows, strict=True):
      row[: len(ids)] = ids
    return tokens, length, np.array([address(x) for x in questions], np.int32)


def load_policy(
  path: str | os.PathLike,
  *,
  tokenizer: TextTokens | str | os.PathLike | None = None,
  prompt: str | None = None,
  delimiter: str | None = None,
  max_new_tokens: int | None = None,
  max_steps: int | None = None,
  temperature: float = 1.0,
  dtype: str | None = None,
  **options: Any,
) -> TextPolicy:
  r"""Reads a policy.

  What it was trained on is found beside it where one of our runs wrote it. A
  checkpoint of others has its tokenizer and, mostly, a chat template; what it
  lacks is an argument here.

  Args:
    path: a folder in Hugging Face's format, a GGUF file, or another source of
      `pav_jax.models.load`.
    tokenizer: an object with `encode` and `decode`, or the path of one; None
      for the checkpoint's.
    prompt: a template, `"Q: {problem}\nA:"`; None for what is said beside the
      checkpoint, else its chat template.
    delimiter: ends a step; None for what is said beside it, else a newline.
    max_new_tokens: of a response; None for what is said beside it, else 512 or
      half of the model's context.
    max_steps: of a response; None for what is said beside it, else 32.
    temperature: of sampling; 0 for the most probable tokens.
    dtype: of computation, as "bfloat16"; None for that of the files.
    **options: of `pav_jax.models.load`: `layout`, `param_dtype`.

  Raises:
    ValueError: naming what neither is beside the checkpoint nor was given, or
      the field, tensor or file that is not as expected.
  """
  where = sources.resolve(path)
  side = None if where.is_file() else hf.read_side(where)
  text_format = beside.read_format(
    where, side, tokenizer=tokenizer, prompt=prompt, delimiter=delimiter
  )
  model = models.load(where, dtype=dtype, **options)
  most = min(text_format.max_response_len, model.config.max_length // 2)
  if side is not None and "text" in side:
    most = side["text"]["max_response_len"]
  return TextPolicy(
    os.fspath(path),
    language_model(
      model.config,
      text_format,
      temperature=temperature,
      max_new_tokens=max_new_tokens or most,
      max_steps=max_steps,
    ),
    model.params,
    text_format,
  )
