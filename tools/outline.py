"""What programs depend on of problems and checkpoints not there yet."""

import dataclasses
import functools
import json
import os
import pathlib
import types

import gin
import numpy as np
import safetensors
from jaxtyping import Bool

from pav_jax.models import families, hf
from pav_jax.models.presets import PRESETS
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.provers import verifier


@gin.register
@dataclasses.dataclass(frozen=True)
class Outline:
  """A text problem's sizes, without any text: for programs that are not run.

  Attributes:
    vocab_size: tokens of the vocabulary.
    prompt_len: S, room for a prompt.
    max_response_len: most tokens of a solution, the end token included.
    max_steps: H.
    fingerprint: of no vocabulary.
    delimiter: of steps.
  """

  vocab_size: int = 256_000
  prompt_len: int = 256
  max_response_len: int = 512
  max_steps: int = 48
  fingerprint: str = "outline"
  delimiter: str = "\n"

  @property
  def vocabulary(self) -> types.SimpleNamespace:
    """Its size and special tokens."""
    return types.SimpleNamespace(vocab_size=self.vocab_size, eos_id=1, pad_id=0)

  def split_size(self, split: str) -> int:
    """As many problems as any run asks for."""
    del split
    return 2**24

  @property
  def max_demonstration_len(self) -> int:
    """Most tokens of a prompt and its solution."""
    return self.prompt_len + self.max_response_len

  @functools.cached_property
  def ends_step(self) -> Bool[np.ndarray, "V"]:
    """One token that ends a step."""
    return np.arange(self.vocab_size) == 2


def network_at(path: str | os.PathLike) -> TransformerConfig:
  """The network of a checkpoint, of which nothing but its shape is read.

  Args:
    path: a directory with config.json; or one that a run has yet to write,
      whose path has the name of a preset in it, such as
      "out/math_sft_gemma2_9b/policy" or just "gemma2_9b". Runs of fine-tuning
      write float32.

  Raises:
    ValueError: if it is neither.
  """
  file = pathlib.Path(path) / hf.CONFIG
  if file.exists():
    fields = json.loads(file.read_text())
    config = families.from_fields(fields)
    dtype = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    return dataclasses.replace(config, param_dtype=dtype, dtype=dtype)
  named = [name for name in PRESETS if name in str(path)]
  if not named:
    raise ValueError(
      f"{path} has no {hf.CONFIG}, and names none of {', '.join(PRESETS)}"
    )
  return PRESETS[max(named, key=len)]


def verifier_at(path: str | os.PathLike) -> VerifierConfig:
  """The network of a verifier's directory; without one it has no reader."""
  number, file = 0, pathlib.Path(path) / verifier.REST
  if file.exists():
    with safetensors.safe_open(file, "numpy") as opened:
      number = int((opened.metadata() or {}).get("reader_layers", 0))
  return VerifierConfig(network_at(path), number)
