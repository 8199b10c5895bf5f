"""Our verifiers as token classifiers, which transformers and vLLM serve."""

import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.checks import check_finite
from pav_jax.models import families, hf, partitioning
from pav_jax.models.value_network import VerifierConfig
from pav_jax.provers.public.public_formats import SCORES
from pav_jax.provers.public.reencoding import AS_SAMPLED

_LABELS = {"0": "fails", "1": "succeeds"}
_CAUSAL, _CLASSIFIER = "ForCausalLM", "ForTokenClassification"
# Families that transformers has a token classifier for.
_SERVED = ("gemma2", "llama", "mistral", "qwen2", "qwen3")


def export(
  path: str | os.PathLike,
  config: VerifierConfig,
  params: dict,
  *,
  identity: Mapping[str, Any],
  token_ids: Mapping[str, Any] | None = None,
  tokenizer_files: Sequence[str | os.PathLike] = (),
) -> None:
  """Writes a verifier as `…ForTokenClassification`.

  The logits of its two labels are 0 and the verifier's own, so that the
  softmax's probability of label 1, at the last token of a prefix, is the value
  of the prefix. `public.load` reads it back as a reader of values.

  Args:
    path: a directory; one that is there is replaced.
    config: of the verifier.
    params: of the verifier.
    identity: of vocabulary and delimiter, from `problems.vocabulary.identity`.
    token_ids: as of `models.hf.save`.
    tokenizer_files: copied beside the model, such as tokenizer.json.

  Raises:
    ValueError: if the verifier has a reader of surprisals, which no token
      classifier has, transformers knows none of the decoder's family, or as of
      `models.hf.save`.
    FloatingPointError: if a parameter is not finite.
  """
  backbone = config.trunk
  if config.reader_layers:
    raise ValueError(
      f"reader_layers is {config.reader_layers}, expected 0: the layers that "
      "read surprisals have no place in a token classifier"
    )
  if backbone.family not in _SERVED:
    raise ValueError(
      f"the decoder's family is {backbone.family}, and transformers has no "
      f"token classifier for it; expected one of {', '.join(_SERVED)}"
    )
  head = params["head"]
  check_finite("parameters", head)
  kernel, bias = (
    np.asarray(partitioning.to_host(head[name]), np.float32)
    for name in ("kernel", "bias")
  )
  name = families.FAMILIES[backbone.family].architecture
  written = hf.Head(
    name.removesuffix(_CAUSAL) + _CLASSIFIER,
    {
      "id2label": _LABELS,
      "label2id": {label: int(i) for i, label in _LABELS.items()},
    },
    {
      "score.weight": np.stack([np.zeros_like(kernel), kernel]),
      "score.bias": np.stack([np.zeros_like(bias), bias]),
    },
  )

  def copy_tokenizer(folder: pathlib.Path) -> None:
    for file in map(pathlib.Path, tokenizer_files):
      shutil.copyfile(file, folder / file.name)

  hf.save(
    path,
    backbone,
    params["trunk"],
    token_ids=token_ids,
    identity={**identity, SCORES: {"meaning": "value", "joining": AS_SAMPLED}},
    head=written,
    replace=True,
    also=copy_tokenizer,
  )
