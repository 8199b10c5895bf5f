"""Draws docs/walkthrough.png: .venv/bin/python docs/walkthrough.py."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import pav_jax
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.problems.planted import Planted
from pav_jax.provers.procedural import Procedural
from pav_jax.training.imitation import ImitateProver

matplotlib.use("Agg")

import matplotlib.pyplot as plt

ALPHA = 1.0


def draw(axes, rollout, q, row, title):
  """One rollout: its tokens, its prefixes' values, its steps' advantages."""
  length = int(rollout.prefix_len[row, -1])
  adv = np.asarray(pav_jax.step_advantages(q))[row, :length]
  reward = np.asarray(
    pav_jax.effective_reward(
      rollout.outcome[:, None] + 0 * q[:, 1:],
      pav_jax.step_advantages(q),
      alpha=ALPHA,
    )
  )[row, :length]
  steps = np.arange(1, length + 1)
  top, bottom = axes
  top.plot(np.arange(length + 1), q[row, : length + 1], "o-", color="C0")
  top.set(ylim=(-0.05, 1.1), title=title)
  top.set_xticks(
    np.arange(length + 1),
    ["prompt", *(str(int(t)) for t in rollout.tokens[row, :length])],
  )
  bottom.bar(steps - 0.2, adv, 0.4, color="C2", label="advantage, Eq. 2")
  bottom.bar(
    steps + 0.2, reward, 0.4, color="C1", label="effective reward, Eq. 5"
  )
  bottom.axhline(0, color="black", linewidth=0.8)
  bottom.set(xlim=top.get_xlim(), ylim=(-0.5, 1.75), xlabel="step h")
  bottom.set_xticks(steps)


def main():
  problem = Planted()
  policy = MadePolicy(problem)
  params = ImitateProver(Procedural(problem, 5.0))(policy, jax.random.key(0))
  sample_id = jnp.arange(2**17)
  rollout = jax.jit(policy.sample)(
    params, jax.random.key(1), jnp.zeros_like(sample_id), sample_id
  )
  rollout = dataclasses.replace(rollout, outcome=problem.grade(rollout))
  q = Procedural(problem, 10.0)(None, rollout)
  right = int(jnp.argmax(rollout.outcome))
  wrong = int(
    jnp.argmax(jnp.where(rollout.outcome == 0, q.max(axis=-1), -jnp.inf))
  )
  plt.rcParams.update(
    {
      "axes.spines.right": False,
      "axes.spines.top": False,
      "font.size": 9,
    }
  )
  figure, axes = plt.subplots(
    2, 2, figsize=(8.4, 4.6), sharey="row", constrained_layout=True
  )
  draw(axes[:, 0], rollout, q, right, f"sample {right}: outcome 1")
  draw(axes[:, 1], rollout, q, wrong, f"sample {wrong}: outcome 0")
  axes[0, 0].set_ylabel("q_prover of each prefix")
  axes[1, 0].set_ylabel("of each step")
  axes[1, 1].legend(frameon=False)
  figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
  main()
