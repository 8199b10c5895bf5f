"""Adapters as PEFT keeps them: adapter_config.json and safetensors.

`peft.PeftModel.from_pretrained(model, folder)` reads what is written here, on
the model that the adapters are of.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from pav_jax import files
from pav_jax.checks import check_finite
from pav_jax.models import adapters, hf, hf_tensors, partitioning, transformer
from pav_jax.models.hf_tensors import Tensor
from pav_jax.models.layers import LORA_A, LORA_B
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import Lora, TransformerConfig

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

_MODULES = {
  "query": "q_proj",
  "key": "k_proj",
  "value": "v_proj",
  "out": "o_proj",
  "gate": "gate_proj",
  "up": "up_proj",
  "down": "down_proj",
}
_PREFIX = "base_model.model."

# What changes no number of a forward pass, whatever it says.
_HARMLESS = {
  *("peft_type", "task_type", "base_model_name_or_path", "revision"),
  *("peft_version", "inference_mode", "auto_mapping", "lora_dropout"),
  *("megatron_core", "qalora_group_size", "layers_pattern", "exclude_modules"),
  *("r", "lora_alpha", "target_modules", "ensure_weight_tying"),
}
_NEUTRAL = {
  "bias": ("none",),
  "init_lora_weights": (True, False, "gaussian"),
}


def tensors(config: TransformerConfig) -> dict[str, Tensor]:
  """All tensors of a network's adapters, by PEFT's names."""
  every, rank = {}, config.lora.rank
  for name, tensor in hf_tensors.tensors(config).items():
    *parents, leaf = tensor.path
    if leaf not in config.lora.targets:
      continue
    outputs, inputs = tensor.shape
    stem = _PREFIX + name.removesuffix("weight")
    for letter, suffix, split, shape in (
      ("A", LORA_A, tensor.num_in_axes, (rank, inputs)),
      ("B", LORA_B, 1, (outputs, rank)),
    ):
      every[f"{stem}lora_{letter}.weight"] = Tensor(
        (*parents, leaf + suffix), tensor.index, split, shape
      )
  return every


def to_host(config: TransformerConfig, params: dict) -> dict[str, np.ndarray]:
  """Adapters on the host, by PEFT's names; all processes call."""
  trained, _ = adapters.split(params)
  check_finite("adapters", trained)
  return {
    name: hf.to_host(trained, tensor)
    for name, tensor in tensors(config).items()
  }


def write(
  folder: pathlib.Path,
  lora: Lora,
  arrays: Mapping[str, np.ndarray],
  *,
  base: str | None = None,
) -> None:
  """Writes a folder that PEFT reads.

  Args:
    folder: new.
    lora: which adapters they are.
    arrays: from `to_host`.
    base: name or path of the model that they are adapters of.
  """
  folder.mkdir()
  fields = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": lora.rank,
    "lora_alpha": lora.alpha,
    "target_modules": [_MODULES[name] for name in lora.targets],
    "lora_dropout": 0.0,
    "bias": "none",
    "fan_in_fan_out": False,
    "use_rslora": False,
    "use_dora": False,
    "inference_mode": True,
  }
  hf.write_json(folder / CONFIG, fields)
  safetensors.numpy.save_file(
    dict(arrays), folder / TENSORS, metadata={"format": "pt"}
  )


def load(
  path: str | os.PathLike,
  config: TransformerConfig,
  base: dict,
  *,
  layout: Layout | None = None,
) -> tuple[TransformerConfig, dict]:
  """Reads adapters that `write` or PEFT wrote.

  Args:
    path: of their folder.
    config: of the network that they are adapters of.
    base: its parameters, which the result shares.
    layout: where the parameters lie; None for one device.

  Raises:
    ValueError: naming the field or tensor that is not as expected.
  """
  path = pathlib.Path(path)
  config = dataclasses.replace(config, lora=_read_lora(path / CONFIG))
  expected = tensors(config)
  try:
    arrays = safetensors.numpy.load_file(path / TENSORS)
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(f"{path / TENSORS} cannot be read: {error}") from error
  for name in sorted(expected.keys() | arrays.keys()):
    shape = arrays[name].shape if name in arrays else "missing"
    want = expected[name].shape if name in expected else "no such tensor"
    if shape != want:
      raise ValueError(
        f"tensor {name} in {path / TENSORS} is {shape}, expected {want}"
      )
  shapes, _ = adapters.split(transformer.shapes(config))
  trained = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  for name, tensor in expected.items():
    place = hf_tensors.get(trained, tensor.path)
    place = place if tensor.index is None else place[tensor.index]
    place[...] = hf_tensors.arrange(
      arrays[name].astype(place.dtype),
      shape=place.shape,
      num_in_axes=tensor.num_in_axes,
      dtype=place.dtype,
    )
  check_finite("adapters", trained)
  if layout is None:
    trained = jax.device_put(trained)
  else:
    where, _ = adapters.split(transformer.shardings(config, layout))
    trained = partitioning.put(trained, where)
  return config, adapters.join(trained, base)


def _read_lora(file: pathlib.Path) -> Lora:
  """What an adapter_config.json says, which must be nothing else."""
  fields: dict[str, Any] = files.read_json(
    file, way_out="expected what PEFT writes"
  )
  if fields.get("peft_type") != "LORA":
    raise ValueError(
      f"{file}: peft_type is {fields.get('peft_type')!r}, expected 'LORA'"
    )
  for name, value in fields.items():
    if name in _HARMLESS or not value or value in _NEUTRAL.get(name, ()):
      continue
    raise ValueError(f"{file}: {name} is {value!r}, which is not supported")
  modules = fields.get("target_modules")
  names = {module: name for name, module in _MODULES.items()}
  if not isinstance(modules, list) or not set(modules) <= set(names):
    raise ValueError(
      f"{file}: target_modules is {modules!r}, expected a list of some of "
      f"{list(names)}"
    )
  numbers = [fields.get(name) for name in ("r", "lora_alpha")]
  if not all(isinstance(x, int | float) for x in numbers):
    raise ValueError(
      f"{file}: r and lora_alpha are {numbers}, expected numbers"
    )
  rank, alpha = numbers
  targets = tuple(names[module] for module in modules)
  return Lora(int(rank), float(alpha), targets)
