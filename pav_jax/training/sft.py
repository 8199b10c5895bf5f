"""Supervised fine-tuning of a language model: stages, optimiser, pure steps."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import Array, Float, PyTree

from pav_jax.data.packing import Batches
from pav_jax.models import adapters, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies import sampling
from pav_jax.rollout import PackedTokens
from pav_jax.training import fitting
from pav_jax.training.fitting import FitState, Fitter, LearningRates
from pav_jax.training.updates import check_mu_dtype


@dataclasses.dataclass(frozen=True)
class Stage(LearningRates):
  """A part of training, with data and learning rates of its own.

  Attributes:
    batches: where its batches come from.
  """

  batches: Batches


@dataclasses.dataclass(frozen=True)
class AdamW:
  """The optimiser, but for its learning rate.

  Attributes:
    b1: of the mean of gradients.
    b2: of the mean of their squares.
    eps: added to its root.
    weight_decay: of everything but scales of norms; 0 for plain Adam.
    clip_norm: gradients of a larger norm are scaled down to it.
    mu_dtype: of the mean of gradients, "bfloat16" for half of its memory; None
      for that of the parameters.

  Raises:
    ValueError: for another `mu_dtype`.
  """

  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  mu_dtype: str | None = None

  def __post_init__(self):
    check_mu_dtype(self.mu_dtype)

  def __call__(self, learning_rate: Any) -> optax.GradientTransformation:
    """The transformation; the learning rate is a number or a schedule."""

    def decays(params):
      return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key != "scale", params
      )

    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      optax.adamw(
        learning_rate,
        b1=self.b1,
        b2=self.b2,
        eps=self.eps,
        mu_dtype=self.mu_dtype,
        weight_decay=self.weight_decay,
        mask=decays,
      ),
    )


@dataclasses.dataclass(frozen=True)
class Muon:
  """Orthogonalised momentum for kernels, Adam for embeddings and norms.

  `optax.contrib.muon` (Jordan et al., 2024): a kernel's update is the nearest
  orthogonal matrix to its momentum, by Newton and Schulz's iteration. It is
  scaled as in Liu et al., arXiv 2502.16982, so that its elements have a root
  mean square of `rms`, near that of Adam's. Attention kernels are matrices
  between the residual stream and all heads.

  Attributes:
    beta: of the momentum, which is Nesterov's.
    rms: of updates at learning rate 1.
    weight_decay: of kernels.
    adam_scale: Adam's learning rate by Muon's.
    b1: of Adam's mean of gradients, whose momentum is Nesterov's too.
    b2: of the mean of their squares.
    eps: added to its root.
    clip_norm: gradients of a larger norm are scaled down to it.
    mu_dtype: of momenta, "bfloat16" for half of their memory; None for that of
      the parameters.

  Raises:
    ValueError: for another `mu_dtype`.
  """

  beta: float = 0.95
  rms: float = 0.2
  weight_decay: float = 0.0
  adam_scale: float = 1.0
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  clip_norm: float = 1.0
  mu_dtype: str | None = None

  def __post_init__(self):
    check_mu_dtype(self.mu_dtype)

  def __call__(self, learning_rate: Any) -> optax.GradientTransformation:
    """The transformation; the learning rate is a number or a schedule."""

    def adam_learning_rate(count):
      rate = learning_rate(count) if callable(learning_rate) else learning_rate
      return self.adam_scale * rate

    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      optax.contrib.muon(
        learning_rate,
        beta=self.beta,
        eps=self.eps,
        mu_dtype=self.mu_dtype,
        weight_decay=self.weight_decay,
        adam_b1=self.b1,
        adam_b2=self.b2,
        adam_learning_rate=adam_learning_rate,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=self.rms,
      ),
    )


def _matrices(params: PyTree) -> PyTree:
  """Which axes of kernels [pairs, …] go in and out; None for other arrays."""
  axes = {
    "query": ((1,), (2, 3)),
    "key": ((1,), (2, 3)),
    "value": ((1,), (2, 3)),
    "out": ((1, 2), (3,)),
    "gate": ((1,), (2,)),
    "up": ((1,), (2,)),
    "down": ((1,), (2,)),
  }

  def of(path, _):
    in_and_out = axes.get(path[-1].key)
    return in_and_out and optax.contrib.MuonDimensionNumbers(*in_and_out)

  return jax.tree_util.tree_map_with_path(of, params)


def schedule(stages: Sequence[Stage]) -> optax.Schedule:
  """Learning rates of all steps: one stage's after the other's."""
  ends = np.cumsum([stage.num_steps for stage in stages])
  return optax.join_schedules(
    [stage.learning_rates for stage in stages], ends[:-1].tolist()
  )


def loss(
  config: TransformerConfig,
  params: dict,
  batch: PackedTokens,
  *,
  layout: Layout | None = None,
) -> Float[Array, ""]:
  """Mean negative log-likelihood of the learnt tokens, in nats a token.

  Args:
    config: of the network.
    params: of the network.
    batch: packed demonstrations; a token sees those of its own text alone.
    layout: where activations lie.
  """
  batch = jax.tree.map(jnp.asarray, batch)
  hidden = transformer.hidden_states(
    config,
    params,
    batch.tokens,
    positions=batch.positions,
    segments=batch.segments,
    layout=layout,
  )
  logp = sampling.logp_of_next(
    config,
    params,
    hidden[:, :-1],
    batch.tokens[:, 1:],
    temperature=1.0,
    layout=layout,
  )
  learnt = batch.loss_mask[:, 1:]
  return -jnp.sum(jnp.where(learnt, logp, 0.0)) / jnp.maximum(learnt.sum(), 1)


def train_step(
  config: TransformerConfig,
  optimizer: optax.GradientTransformation,
  state: FitState,
  batch: PackedTokens,
  *,
  layout: Layout | None = None,
) -> tuple[FitState, dict[str, Float[Array, ""]]]:
  """One step of maximum likelihood; pure.

  Returns:
    The next state, and the batch's `loss` and the `gradient_norm` before it is
    clipped.
  """

  def loss_fn(params):
    network = adapters.join(params, state.base)
    return loss(config, network, batch, layout=layout)

  value, gradient = jax.value_and_grad(loss_fn)(state.params)
  updates, new = optimizer.update(gradient, state.optimizer, state.params)
  metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
  params = optax.apply_updates(state.params, updates)
  return FitState(params, new, state.base), metrics


def fitter(
  config: TransformerConfig,
  optimizer: optax.GradientTransformation,
  layout: Layout,
) -> Fitter:
  """`train_step` of a network, laid out over a mesh."""
  return Fitter(
    functools.partial(train_step, config, optimizer, layout=layout),
    optimizer,
    fitting.state_shardings(
      optimizer,
      transformer.shapes(config),
      transformer.shardings(config, layout),
      layout,
    ),
    layout,
  )
