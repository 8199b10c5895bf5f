"""Whether a vocabulary is the one that a checkpoint was trained with."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pav_jax.models.transformer_config import TransformerConfig

SIDE_FILE = "pav_jax.json"
# What a config.json of Gemma 2 means where it does not say.
_TOKEN_IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}


@runtime_checkable
class Ids(Protocol):
  """What a checkpoint can be compared with; `bos_id` may be absent or None.

  Attributes:
    vocab_size: V.
    pad_id: fills up rows.
    eos_id: ends a response.
  """

  vocab_size: int
  pad_id: int
  eos_id: int


def check_size(config: TransformerConfig, vocabulary: Ids) -> None:
  """Raises ValueError, naming both, unless the model has as many tokens."""
  if config.vocab_size != vocabulary.vocab_size:
    raise ValueError(
      f"the vocabulary has {vocabulary.vocab_size} tokens and the model "
      f"{config.vocab_size}, expected the same; it is another vocabulary than "
      f"the model's ({_name(vocabulary)})"
    )


def check_ids(fields: Mapping[str, Any], vocabulary: Ids) -> None:
  """Raises ValueError, naming both, if special tokens differ.

  Args:
    fields: of a config.json; an end token may be one of several there.
    vocabulary: whose ids are compared.
  """
  for name, default in _TOKEN_IDS.items():
    ours = getattr(vocabulary, name.replace("_token", ""), None)
    theirs = fields.get(name, default)
    if ours is None or theirs is None:
      continue
    allowed = theirs if isinstance(theirs, list) else [theirs]
    if ours not in allowed:
      raise ValueError(
        f"{name} is {theirs} in config.json and {ours} in the vocabulary, "
        f"expected the same ({_name(vocabulary)})"
      )


def check_fingerprint(
  side: Mapping[str, Any] | None, expected: str, where: str
) -> bool:
  """Compares a fingerprint with that in a side file.

  Args:
    side: what the file holds; None if there is none.
    expected: the fingerprint.
    where: the checkpoint, for the message.

  Returns:
    False if there is no side file, as of checkpoints that others wrote.

  Raises:
    ValueError: naming both, if they differ.
  """
  if side is None:
    return False
  if side.get("fingerprint") != expected:
    raise ValueError(
      f"the vocabulary and delimiter of {where} have the fingerprint "
      f"{side.get('fingerprint')} ({_described(side)}), expected {expected}"
    )
  return True


def checked_side(
  identity: Mapping[str, Any], config: TransformerConfig
) -> dict[str, Any]:
  """The content of a side file.

  Raises:
    ValueError: if there is no fingerprint, or the model has fewer tokens than
      the vocabulary. It may have more, as widths that suit the hardware want.
  """
  fingerprint = identity.get("fingerprint")
  if not isinstance(fingerprint, str) or not fingerprint:
    raise ValueError(
      f"identity has the fingerprint {fingerprint!r}, expected a digest, as of "
      "problems.vocabulary.identity"
    )
  if identity.get("vocab_size", 0) > config.vocab_size:
    raise ValueError(
      f"identity has vocab_size {identity['vocab_size']} and the model "
      f"{config.vocab_size}, expected no fewer"
    )
  return dict(identity)


def _described(side: Mapping[str, Any]) -> str:
  return ", ".join(
    f"{name} {side[name]!r}"
    for name in ("vocabulary", "delimiter")
    if name in side
  )


def _name(vocabulary: Ids) -> str:
  return getattr(vocabulary, "path", None) or type(vocabulary).__name__
