"""What the score of a step means, and the values of prefixes made of scores.

| meaning | score of a step | rules that make prefix values |
|---|---|---|
| `value` | P(the prefix is completed right) | `last` |
| `correctness` | P(the step is right) | `product`, `minimum`, `last` |
| `log_ratio` | β log π/π_ref of its tokens, in nats | `sigmoid` |

A product of values, or the sigmoid of a correctness, is no value of anything;
so a rule that does not go with a meaning is refused.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

Meaning = Literal["value", "correctness", "log_ratio"]
Rule = Literal["product", "minimum", "last", "sigmoid"]
Start = Literal["one", "half", "read"]

RULES: dict[str, tuple[str, ...]] = {
  "value": ("last",),
  "correctness": ("product", "minimum", "last"),
  "log_ratio": ("sigmoid",),
}
_STARTS = {"one": 1.0, "half": 0.5}
_START_OF = {"value": "half", "correctness": "one", "log_ratio": "half"}


def checked_rule(meaning: str, rule: str | None) -> str:
  """The rule by which scores of a meaning become values.

  Args:
    meaning: of the scores.
    rule: None for the only one that there is.

  Raises:
    ValueError: if the meaning is none of those above, the rule does not go with
      it, or none is named and there are several.
  """
  if meaning not in RULES:
    raise ValueError(f"meaning is {meaning!r}, expected one of {tuple(RULES)}")
  rules = RULES[meaning]
  if rule is None and len(rules) == 1:
    return rules[0]
  if rule is None:
    raise ValueError(
      f"scores are of the meaning {meaning!r} and no rule says how they become "
      f"values of prefixes, expected rule to be one of {rules}"
    )
  if rule not in rules:
    raise ValueError(
      f"rule is {rule!r} and scores are of the meaning {meaning!r}: they would "
      f"be mixed up; expected one of {rules}"
    )
  return rule


def checked_start(meaning: str, start: str | None) -> str:
  """How a bare problem is valued: public models say nothing about it.

  "one": nothing is wrong yet, the value of an empty product. "half": nothing
  is known, which is also what a log-ratio of no tokens gives. "read": at the
  problem's last token, as a verifier reads it that was trained to.

  Args:
    meaning: of the scores.
    start: None for "one" with `correctness`, "half" with others.

  Raises:
    ValueError: if it is another name.
  """
  start = _START_OF[meaning] if start is None else start
  if start not in (*_STARTS, "read"):
    raise ValueError(
      f"start is {start!r}, expected one of {(*_STARTS, 'read')}"
    )
  return start


def prefix_values(
  scores: Float[np.ndarray, "B H"], rule: str, start: str
) -> Float[np.ndarray, "B P"]:
  """Values of all prefixes, float32 in [0, 1].

  With s the scores of the steps so far, q[h] is Π s ("product"), min s
  ("minimum"), the last of s ("last") or 1 / (1 + exp(−Σ s)) ("sigmoid": the
  probability of a right outcome that an implicit reward model is trained to
  give, arXiv 2412.01981, with a cross-entropy loss).

  Args:
    scores: NaN where there is no step: the value before is repeated.
    rule: from `checked_rule`.
    start: of the bare problem, "one" or "half".
  """
  absent = np.isnan(scores)
  scores = scores.astype(np.float64)
  before = np.full((len(scores), 1), _STARTS[start])
  if rule == "sigmoid":
    total = np.cumsum(np.where(absent, 0.0, scores), axis=1)
    q = 0.5 * (1 + np.tanh(total / 2))
  elif rule == "product":
    q = np.cumprod(np.where(absent, 1.0, scores), axis=1)
  elif rule == "minimum":
    q = np.minimum.accumulate(np.where(absent, 1.0, scores), axis=1)
  else:
    q = scores
  q = np.concatenate([before, q], axis=1)
  # Where there is no step: what stood before it, the start included.
  at = np.where(np.pad(absent, ((0, 0), (1, 0))), 0, np.arange(q.shape[1]))
  at = np.maximum.accumulate(at, axis=1)
  return np.take_along_axis(q, at, axis=1).astype(np.float32)
