"""Whether a vocabulary is the one that a checkpoint was trained with."""

from collections.abc import Mapping
from typing import Any

from pav_jax.models.transformer_config import TransformerConfig

SIDE_FILE = "pav_jax.json"


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
