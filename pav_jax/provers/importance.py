"""Values of a policy that hardly ever succeeds, by importance sampling.

Where Q^π is 1e-5, completions sampled from π say nothing. Completions sampled
from a stronger policy, reweighted by the ratio of the two policies'
probabilities, are just as unbiased and succeed often.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from pav_jax.policies.made_policy import MadePolicy
from pav_jax.provers.procedural import Procedural
from pav_jax.rollout import Rollout


def action_values(
  policy: MadePolicy,
  params: PyTree,
  problem: Any,
  proposal: Procedural,
  key: jax.Array,
  rollout: Rollout,
  *,
  num_samples: int,
) -> Float[Array, "B H V"]:
  """Unbiased estimates of Q^π(s_h, a) for every token a before every step.

  Q^π(s, a) = E_{y ~ μ(·|s, a)} [ π(y|s, a) / μ(y|s, a) · Rex(y) ].

  Args:
    policy: π.
    params: of π.
    problem: has `grade(rollout)`.
    proposal: μ, gives every completion a probability above 0.
    key: of the completions.
    rollout: whose prefixes 0 … H - 1 are the states. Entries of steps past a
      response's end mean nothing.
    num_samples: completions of each state and token.

  Returns:
    float32[B, H, V], at least 0; an estimate may exceed 1.
  """
  num_steps = rollout.prefix_len.shape[-1] - 1
  vocab = policy.problem.vocab_size
  steps, actions, samples = (
    grid.reshape(-1)
    for grid in jnp.meshgrid(
      jnp.arange(num_steps),
      jnp.arange(vocab),
      jnp.arange(num_samples),
      indexing="ij",
    )
  )

  def of_row(row):
    tokens, problem_id, sample_id = row
    rows = steps.shape[0]
    tokens = jnp.broadcast_to(tokens, (rows, *tokens.shape))
    tokens = tokens.at[jnp.arange(rows), steps].set(actions)
    completed = proposal.complete(
      key,
      (
        jnp.broadcast_to(problem_id, rows),
        jnp.broadcast_to(sample_id, rows),
        steps * vocab + actions,
        samples,
      ),
      tokens,
      steps + 1,
    )
    sampled = jnp.arange(tokens.shape[-1]) > steps[:, None]
    log_ratio = jnp.sum(
      (policy.logp(params, completed) - completed.logp) * sampled, axis=-1
    )
    values = jnp.exp(log_ratio) * problem.grade(completed)
    return jnp.mean(values.reshape(num_steps, vocab, num_samples), axis=-1)

  return jax.lax.map(
    of_row, (rollout.tokens, rollout.problem_id, rollout.sample_id)
  )
