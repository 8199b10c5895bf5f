"""Decoders: their files, their passes, and what is read from them.

`load(source)` gives a `Model`, with `logits` and `hidden_states`; `save` writes
one. The pure functions that these are made of are in `transformer`, parameters
first; `decoding` and `extending` keep keys and values.
"""

import importlib

__all__ = ["Model", "load", "save"]


def __getattr__(name: str):
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module("pav_jax.models.model"), name)
