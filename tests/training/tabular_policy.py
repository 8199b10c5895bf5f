"""A policy and a problem so small that training them takes milliseconds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import randomness
from pav_jax.models import partitioning
from pav_jax.rollout import Rollout

# Where a split's problems begin; train 0 … 9, validation 100 …, test 200 ….
FIRST = {"train": 0, "validation": 100, "test": 200}


@dataclasses.dataclass(frozen=True)
class Coins:
  """Two steps of a token each; a response is right if both are 1."""

  placement: str = "device"
  fingerprint = "coins"
  prompt_len, max_steps, max_response_len = 1, 2, 2

  def split_size(self, split):
    return {"train": 10, "validation": 6, "test": 4}[split]

  def problem_ids(self, split, start, stop):
    if not 0 <= start < stop <= self.split_size(split):
      raise ValueError(f"{split} has no problems {start} … {stop - 1}")
    return np.arange(start, stop, dtype=np.int32) + FIRST[split]

  def prompts(self, problem_id):
    return np.zeros((len(problem_id), 1), np.int32)

  def prompt_lengths(self, problem_id):
    return np.ones(len(problem_id), np.int32)

  def grade(self, rollout):
    xp = jnp if self.placement == "device" else np
    return xp.all(rollout.tokens[:, 1:] == 1, axis=-1).astype(xp.float32)


@dataclasses.dataclass(frozen=True)
class Tabular:
  """A logit for each of the two tokens of each step."""

  placement: str = "device"
  end: int = -1  # a response ends by itself if this is its last token; -1: all
  layout = None

  def on(self, layout):
    return self

  def shardings(self, layout):
    return {"logits": partitioning.replicated(layout.mesh)}

  def init(self, key):
    return {"logits": jax.random.normal(key, (2, 2))}

  def has_ended(self, rollout):
    return (rollout.tokens[:, -1] == self.end) | (self.end < 0)

  def value_network(self):
    return StepValue()

  def sample(self, params, key, problem_id, first_sample=0, *, num_samples=1):
    first = jnp.broadcast_to(first_sample, jnp.shape(problem_id))
    ids = jnp.repeat(jnp.asarray(problem_id), num_samples)
    samples = (first[:, None] + jnp.arange(num_samples)).reshape(-1)
    keys = randomness.token_keys(key, (ids, samples), 2)
    uniforms = randomness.uniforms(keys)
    logp = jax.nn.log_softmax(params["logits"])
    drawn = (uniforms < jnp.exp(logp[:, 1])).astype(jnp.int32)
    number = len(ids)
    rollout = Rollout(
      tokens=jnp.concatenate([jnp.zeros((number, 1), jnp.int32), drawn], 1),
      logp=jnp.zeros((number, 3)),
      prefix_len=jnp.broadcast_to(jnp.arange(1, 4), (number, 3)),
      outcome=jnp.full(number, jnp.nan),
      problem_id=ids.astype(jnp.int32),
      sample_id=samples.astype(jnp.int32),
    )
    return dataclasses.replace(rollout, logp=self.logp(params, rollout))

  def complete(self, params, key, rollout, *, num_samples, prefixes=None):
    raise NotImplementedError

  def logp(self, params, rollout):
    logp = jax.nn.log_softmax(params["logits"])
    chosen = jnp.stack(
      [logp[step][rollout.tokens[:, step + 1]] for step in range(2)], axis=-1
    )
    return jnp.pad(chosen, ((0, 0), (1, 0)))


@dataclasses.dataclass(frozen=True)
class StepValue:
  """A number for each step, whatever was before."""

  def init(self, key, params=None):
    return {"value": jnp.zeros(2)}

  def values(self, params, rollout):
    return jnp.broadcast_to(params["value"], (len(rollout.tokens), 2))


def ones_and_zeros(rollout, q=(0.25, 0.5, 1.0)):
  """Values of a rollout's prefixes: `q` while all tokens are 1, and else 0."""
  right = jnp.cumprod(jnp.asarray(rollout.tokens)[:, 1:] == 1, axis=-1)
  right = jnp.pad(right, ((0, 0), (1, 0)), constant_values=1)
  return jnp.asarray(q, jnp.float32) * right
