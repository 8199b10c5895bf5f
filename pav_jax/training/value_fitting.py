"""Training of verifiers: the loss, the state and pure steps (Sec. 4.2, App. D).

Parameters are those of `models.value_network`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from pav_jax import steps
from pav_jax.checks import check_positive
from pav_jax.models import adapters, heads
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies import sampling
from pav_jax.training import fitting
from pav_jax.training.fitting import FitState, Fitter, LearningRates
from pav_jax.training.labelling import Examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifierSchedule(LearningRates):
  """How long a verifier is trained, how fast, and in which batches.

  Attributes:
    batch_size: traces in a batch; each has the labels of all its prefixes.
    backbone_rate: the backbone's learning rate as a multiple of the others'. At
      0 it stays as it is, and no gradient passes it.

  Raises:
    ValueError: if a number is out of its range.
  """

  batch_size: int = 32
  backbone_rate: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_positive(batch_size=self.batch_size)
    if not 0 <= self.backbone_rate < float("inf"):
      raise ValueError(f"backbone_rate is {self.backbone_rate}, expected >= 0")

  @property
  def split(self) -> fitting.Split:
    """Which parameters of a verifier are trained."""
    return functools.partial(network.split, frozen=self.backbone_rate == 0)

  def optimizer(self, kind: Callable) -> optax.GradientTransformation:
    """The optimiser with these learning rates.

    Args:
      kind: `learning_rate -> optax.GradientTransformation`, as `sft.AdamW`.
    """
    backbone = optax.masked(
      optax.scale(self.backbone_rate),
      lambda params: {name: name == "trunk" for name in params},
    )
    return optax.chain(kind(self.learning_rates), backbone)


def losses(
  config: VerifierConfig,
  params: dict,
  batch: Examples,
  *,
  next_token: bool = True,
  layout: Layout | None = None,
) -> dict[str, Float[Array, ""]]:
  """Losses of a batch, after one pass over each trace.

  - `values`: `(1/B) Σ_bh w_bh [−y log σ(l) − (1 − y) log σ(−l)]_bh`, the
    cross-entropy against soft labels y, with the logit l read at the last token
    of each prefix, in nats.
  - `next_token`: negative log-likelihood of the imitated steps, in nats a
    token, under the backbone as a language model; 0 if there are none.

  Args:
    config: of the network.
    params: of the network.
    batch: B traces, labels and weights.
    next_token: whether the second loss is wanted.
    layout: where activations lie.
  """
  batch = jax.tree.map(jnp.asarray, batch)
  hidden, read = network.hidden_states(
    config, params, batch.tokens, layout=layout
  )
  at = jnp.maximum(batch.prefix_len - 1, 0)
  logit = heads.read(params["head"], read, at)
  entropy = optax.sigmoid_binary_cross_entropy(logit, batch.label)
  entropy = jnp.where(batch.weight > 0, batch.weight * entropy, 0.0)
  parts = {"values": entropy.sum() / len(entropy)}
  if next_token:
    logp = sampling.logp_of_next(
      config.trunk,
      params["trunk"],
      hidden[:, :-1],
      batch.tokens[:, 1:],
      temperature=1.0,
      layout=layout,
    )
    learnt = steps.spread_over_tokens(
      batch.imitated.astype(jnp.float32),
      batch.prefix_len,
      num_tokens=batch.tokens.shape[1],
    )[:, 1:]
    total = jnp.where(learnt > 0, logp, 0.0).sum()
    parts["next_token"] = -total / jnp.maximum(learnt.sum(), 1)
  return parts


def train_step(
  config: VerifierConfig,
  optimizer: optax.GradientTransformation,
  state: FitState,
  batch: Examples,
  *,
  aux_weight: float = 0.0,
  layout: Layout | None = None,
) -> tuple[FitState, dict[str, Float[Array, ""]]]:
  """One step on `values + aux_weight · next_token`; pure.

  Returns:
    The next state, and the batch's `loss`, its parts, and the `gradient_norm`
    before it is clipped.
  """

  def loss(params):
    parts = losses(
      config,
      adapters.join(params, state.base),
      batch,
      next_token=aux_weight > 0,
      layout=layout,
    )
    total = parts["values"]
    if aux_weight > 0:
      total += aux_weight * parts["next_token"]
    return total, parts

  (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(
    state.params
  )
  updates, new = optimizer.update(gradient, state.optimizer, state.params)
  metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)} | parts
  params = optax.apply_updates(state.params, updates)
  return FitState(params, new, state.base), metrics


def fitter(
  config: VerifierConfig,
  optimizer: optax.GradientTransformation,
  layout: Layout,
  *,
  aux_weight: float = 0.0,
  split: fitting.Split = network.split,
) -> Fitter:
  """`train_step` of a network, laid out over a mesh.

  Args:
    config: of the network.
    optimizer: of a schedule.
    layout: of the mesh.
    aux_weight: of the next-token loss.
    split: of the schedule, which parameters are trained.
  """
  return Fitter(
    functools.partial(
      train_step, config, optimizer, aux_weight=aux_weight, layout=layout
    ),
    optimizer,
    fitting.state_shardings(
      optimizer,
      network.shapes(config),
      network.shardings(config, layout),
      layout,
      split,
    ),
    layout,
    split,
  )
