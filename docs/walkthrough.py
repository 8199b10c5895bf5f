"""Draws docs/walkthrough.png: .venv/bin/python docs/walkthrough.py."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import pav_jax
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.problems.planted import Planted
from pav_jax.provers.procedural import Procedural
from pav_jax.reporting import drawing
from pav_jax.training.imitation import ImitateProver

ALPHA = 1.0
VALUE, ADVANTAGE, REWARD = (
  drawing.colour(name) for name in ("value", "advantage", "progress")
)


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
  top.plot(np.arange(length + 1), q[row, : length + 1], "o-", color=VALUE)
  top.set(ylim=(-0.05, 1.1), title=title)
  top.set_xticks(
    np.arange(length + 1),
    ["prompt", *(str(int(t)) for t in rollout.tokens[row, :length])],
  )
  bottom.bar(steps - 0.2, adv, 0.4, color=ADVANTAGE)
  bottom.bar(steps + 0.2, reward, 0.4, color=REWARD)
  bottom.axhline(0, color="black", linewidth=0.8)
  bottom.set(xlim=top.get_xlim(), ylim=(-0.5, 1.75), xlabel="step h")
  top.set_xlabel("token that a prefix ends with (a dot for each prefix)")
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
  path = pathlib.Path(__file__).with_suffix(".png")
  with drawing.figure(path, 9, 5.6) as figure:
    axes = figure.subplots(2, 2, sharey="row")
    draw(axes[:, 0], rollout, q, right, f"a right response (sample {right})")
    draw(axes[:, 1], rollout, q, wrong, f"a wrong response (sample {wrong})")
    axes[0, 0].set_ylabel("value, probability that\nthe prover ends right")
    axes[1, 0].set_ylabel("credit of a step,\nin probability")
    for y, color, text in (
      (0.92, ADVANTAGE, "left bars: advantage, Eq. 2"),
      (0.82, REWARD, "right bars: effective reward, Eq. 5"),
    ):
      axes[1, 1].text(
        *(0.97, y),
        text,
        color=color,
        ha="right",
        transform=axes[1, 1].transAxes,
      )
    drawing.say(figure, "Progress: by how much each step changes the value")


if __name__ == "__main__":
  main()
