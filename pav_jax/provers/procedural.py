"""The procedural prover μ_γ of the planted sub-sequence (Sec. 3.3, App. B).

With the longest matched prefix of the planted sequence having k tokens, token
k + 1 of the sequence has weight γ and every other token of the vocabulary, the
end token included, has weight 1. Once the sequence has occurred, all weights
are 1. It depends on the matching automaton's state alone, so dynamic
programming over (position, state) gives its values exactly.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax import checks, randomness
from pav_jax.checks import Leaf
from pav_jax.policies.made_policy import rollout_from_tokens
from pav_jax.problems.planted import Planted
from pav_jax.provers import base
from pav_jax.rollout import Rollout


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["strength"],
  meta_fields=["problem"],
)
@dataclasses.dataclass(frozen=True)
class Procedural(base.FixedProver):
  """μ_γ, a prover `(key, rollout) -> q` and a policy to sample from.

  Attributes:
    problem: static.
    strength: γ > 0, float or float32[], may be traced; 1 is the uniform policy.

  Raises:
    ValueError: if strength is a number that is not positive and finite.
  """

  problem: Planted
  strength: Leaf = 10.0

  placement = "device"

  def __post_init__(self):
    checks.check_positive(**{"prover strength γ": self.strength})

  def logits(self) -> Float[Array, "S V"]:
    """Log-weights of the next token in each of the automaton's states."""
    planted = jnp.asarray(self.problem.planted)
    logits = jnp.zeros((self.problem.num_states, self.problem.vocab_size))
    return logits.at[jnp.arange(len(planted)), planted].set(
      jnp.log(jnp.asarray(self.strength, jnp.float32))
    )

  def values(self) -> Float[Array, "P S"]:
    """Exact probability of success after h tokens in a state; P = length + 1.

    V[h, s] = Σ_a μ(a|s) V[h+1, s'(s, a)] with V[length, s] = [s is done].
    """
    probs = jax.nn.softmax(self.logits())
    transitions = jnp.asarray(self.problem.transitions)
    done = jnp.arange(self.problem.num_states) == len(self.problem.planted)
    final = done.astype(jnp.float32)

    def back_up(value, _):
      value = jnp.where(done, 1.0, jnp.sum(probs * value[transitions], axis=-1))
      return value, value

    _, values = jax.lax.scan(back_up, final, length=self.problem.length)
    return jnp.concatenate([values[::-1], final[None]])

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[Array, "B P"]:
    """Exact q_prover[b, h] of every prefix; the key is not used."""
    del key
    states = self.problem.states(rollout.tokens, rollout.prefix_len)
    return self.values()[rollout.prefix_len, states]

  def action_values(self, rollout: Rollout) -> Float[Array, "B H V"]:
    """Exact Q^μ(s_h, a) of every token a in the state before every step.

    Rows of steps past the response's end repeat the final state's.
    """
    states = self.problem.states(rollout.tokens, rollout.prefix_len)[:, :-1]
    following = jnp.asarray(self.problem.transitions)[states]
    position = jnp.minimum(rollout.prefix_len[:, :-1] + 1, self.problem.length)
    return self.values()[position[..., None], following]

  def sample(
    self,
    key: jax.Array,
    problem_id: Int[Array, "B"],
    sample_id: Int[Array, "B"],
  ) -> Rollout:
    """Responses sampled from μ_γ; the outcome is NaN until graded."""
    nothing = jnp.zeros((*problem_id.shape, self.problem.length), jnp.int32)
    return self.complete(
      key,
      (problem_id, sample_id),
      nothing,
      jnp.zeros_like(problem_id),
    )

  def complete(
    self,
    key: jax.Array,
    address: Sequence[Int[Array, "B"]],
    tokens: Int[Array, "B T"],
    num_given: Int[Array, "B"],
  ) -> Rollout:
    """Continues the first `num_given` tokens of each row with μ_γ.

    Args:
      key: the run's key.
      address: of the rows' randomness, problem and sample first, see
        `randomness.token_keys`.
      tokens: int32[B, T].
      num_given: int32[B], 0 … T.

    Returns:
      A `Rollout`; its `logp` is μ_γ's, that of the given tokens included.
    """
    logits = self.logits()
    transitions = jnp.asarray(self.problem.transitions)
    keys = randomness.token_keys(key, address, self.problem.length)

    def next_token(state, column):
      position, row_keys, given = column
      drawn, _ = randomness.categorical(row_keys, logits[state])
      token = jnp.where(position < num_given, given, drawn)
      logp = jax.nn.log_softmax(logits[state])
      logp = jnp.take_along_axis(logp, token[:, None], axis=-1)[:, 0]
      return transitions[state, token], (token, logp)

    columns = jnp.arange(self.problem.length), keys.T, tokens.T
    _, (tokens, logp) = jax.lax.scan(
      next_token, jnp.zeros_like(num_given), columns
    )
    problem_id, sample_id, *_ = address
    return rollout_from_tokens(
      self.problem, tokens.T, logp.T, problem_id, sample_id
    )
