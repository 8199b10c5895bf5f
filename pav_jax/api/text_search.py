"""Beam search, in words."""

import dataclasses
from typing import overload

import jax
import numpy as np

from pav_jax.api.answers import Answer, Scored, answers, listed, scored, show
from pav_jax.api.text_policy import TextPolicy
from pav_jax.api.text_verifier import TextVerifier
from pav_jax.search import cached_beams
from pav_jax.search.selection import Settings
from pav_jax.search.value_function import value_function


@dataclasses.dataclass(frozen=True)
class Found:
  """What a search came to.

  Attributes:
    best: the answer that was chosen, and the values of its steps.
    beams: all answers of the last beam, the most valuable first.
    num_tokens: that were sampled for it.
  """

  best: Scored
  beams: tuple[Scored, ...]
  num_tokens: int

  @property
  def answer(self) -> Answer:
    """The one that was chosen."""
    assert self.best.answer is not None  # a policy wrote it
    return self.best.answer

  @property
  def text(self) -> str:
    """Of the answer that was chosen."""
    return self.best.text

  def show(self) -> None:
    """Prints the best answer, or displays it in a notebook."""
    show(self)

  def __str__(self) -> str:
    return (
      f"{self.best}\n\nthe best of {len(self.beams)} beams; "
      f"{self.num_tokens} tokens sampled"
    )

  def __repr__(self) -> str:
    return f"Found({self.best!r}, {len(self.beams)} beams)"

  def _repr_html_(self) -> str:
    return (
      f"{self.best._repr_html_()}<p>the best of {len(self.beams)} beams; "
      f"{self.num_tokens} tokens sampled</p>"
    )


@overload
def beam_search(
  policy: TextPolicy,
  verifier: TextVerifier,
  question: str,
  *,
  beams: int = 4,
  alpha: float = 0.5,
  candidates: int = 3,
  seed: int = 0,
) -> Found: ...


@overload
def beam_search(
  policy: TextPolicy,
  verifier: TextVerifier,
  question: list[str],
  *,
  beams: int = 4,
  alpha: float = 0.5,
  candidates: int = 3,
  seed: int = 0,
) -> list[Found]: ...


def beam_search(
  policy,
  verifier,
  question,
  *,
  beams=4,
  alpha=0.5,
  candidates=3,
  seed=0,
):
  """Searches for an answer step by step (Sec. 4.1).

  Of each prefix some next steps are sampled; those with the highest value plus
  alpha times progress go on. See `search.cached_beams.search`.

  Args:
    policy: from `load_policy`.
    verifier: from `load_verifier`; its values are the policy's.
    question: a text, or a list of texts.
    beams: prefixes that are kept.
    alpha: weight of progress; 0 for values alone.
    candidates: next steps that are sampled of each prefix.
    seed: of random numbers.

  Returns:
    A `Found`; for a list of questions a list.

  Raises:
    ValueError: if the verifier cannot read the policy's tokens, a number is out
      of its range, or a question leaves no room for a response.
  """
  questions, alone = listed(question)
  tokens, length, ids = policy.encoded(questions)
  result = cached_beams.search(
    policy.model,
    policy.params,
    value_function(verifier.prover(policy.text_format)),
    jax.random.key(seed),
    tokens,
    length,
    ids,
    settings=Settings(
      num_beams=beams,
      num_steps=policy.model.max_steps,
      num_candidates=candidates,
    ),
    alpha=np.full(len(questions), alpha, np.float32),
  )
  result = jax.tree.map(np.asarray, result)
  out = [
    _found(policy, result, row, text) for row, text in enumerate(questions)
  ]
  return out[0] if alone else out


def _found(
  policy: TextPolicy,
  result: cached_beams.SearchResult,
  row: int,
  question: str,
) -> Found:
  """What came of one question."""
  rollout = jax.tree.map(lambda x: x[row], result.rollout)
  ended = np.asarray(policy.model.has_ended(rollout))
  texts = [question] * len(ended)
  every = answers(policy.text_format, rollout, ended, texts)
  traces = [
    scored(question, one.steps, q[: len(one.steps) + 1], one)
    for one, q in zip(every, result.q_policy[row], strict=True)
  ]
  there = [traces[i] for i in np.flatnonzero(result.valid[row])]
  return Found(
    best=traces[int(result.chosen[row])],
    beams=tuple(sorted(there, key=lambda one: -one.value)),
    num_tokens=int(result.count[row].sum()),
  )
