"""Problems that are the same but for their form, found by shared phrases."""

import collections
import re
from collections.abc import Mapping
from typing import NamedTuple

PHRASE = 5  # words
THRESHOLD = 0.8

_FORMS = re.compile(
  r"\\(?:left|right|text|mbox|displaystyle|[!,; ])|\\[dt](?=frac)"
)
_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9$.,?!{}\\]")


class Match(NamedTuple):
  """Two problems that share most of their phrases.

  Attributes:
    key: of the one.
    other: key of the other.
    similarity: phrases that both have over those that either has.
  """

  key: str
  other: str
  similarity: float


def words(text: str) -> tuple[str, ...]:
  """Words, numbers and signs, without case, spaces and mere form of LaTeX."""
  return tuple(_WORD.findall(_FORMS.sub("", text).lower()))


def near_duplicates(
  texts: Mapping[str, str],
  others: Mapping[str, str],
  threshold: float = THRESHOLD,
) -> list[Match]:
  """Texts that are nearly one of the others.

  Phrases are runs of `PHRASE` words; a text of fewer words is one phrase.

  Args:
    texts: by key.
    others: by key.
    threshold: least share of phrases in common (Jaccard), in (0, 1].

  Returns:
    For each such text the other that is most like it, in the order of texts.
  """
  phrases = {key: _phrases(text) for key, text in others.items()}
  having = collections.defaultdict(list)
  for key, some in phrases.items():
    for phrase in some:
      having[phrase].append(key)
  found = []
  for key, text in texts.items():
    some = _phrases(text)
    common = collections.Counter(
      other for phrase in some for other in having.get(phrase, ())
    )
    best = max(
      (
        Match(key, other, n / (len(some) + len(phrases[other]) - n))
        for other, n in common.items()
      ),
      key=lambda match: match.similarity,
      default=None,
    )
    if best is not None and best.similarity >= threshold:
      found.append(best)
  return found


def _phrases(text: str) -> set[tuple[str, ...]]:
  all_words = words(text)
  number = max(1, len(all_words) - PHRASE + 1)
  return {all_words[i : i + PHRASE] for i in range(number)}
