"""Other people's process reward models, as provers; and ours, in their format.

    reader = public.load("Qwen2.5-Math-PRM-7B", tokenizer=tokenizer)
    prover = reader.prover(problem, rule="minimum")

| file | what |
|---|---|
| `public_formats` | `load`, `implicit`: files to readers |
| `step_reader` | `StepReader`, `LogRatioReader`: marks in, scores out |
| `step_joining` | how each model's authors join problem and steps |
| `score_meanings` | what a score means, and which rule makes values of it |
| `reencoding` | `Reencoded`: a reader as a prover over rollouts |
| `token_classifier` | `export`: our verifiers for others |
"""

from pav_jax.provers.public.public_formats import (
  FORMATS,
  implicit,
  implicit_prover,
  load,
  prover,
)
from pav_jax.provers.public.reencoding import AS_SAMPLED
from pav_jax.provers.public.token_classifier import export

__all__ = [
  "AS_SAMPLED",
  "FORMATS",
  "export",
  "implicit",
  "implicit_prover",
  "load",
  "prover",
]
