"""What a comparison of searches says: rows of re-rankers, summary, tables."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pav_jax import advantages, thresholds
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.reporting import progress
from pav_jax.runs.search_samples import Samples
from pav_jax.search import best_of_n, costs, efficiency, voting

ORM = "best of N"
ORACLE = "Pass@N"
GREEDY = "greedy"

# Method -> size -> a row for each problem, all in one order.
Methods = dict[str, dict[int, list[dict[str, Any]]]]

COSTS = ("generated", "prefill", "policy_flops", "verifier_tokens")
COSTS = (*COSTS, "verifier_flops")


def trace(
  tokens: Int[np.ndarray, "T"],
  prefix_len: Int[np.ndarray, "P"],
  q_policy: Float[np.ndarray, "P"],
  q_prover: Float[np.ndarray, "P"],
) -> dict[str, Any]:
  """A response and its values, for a row."""
  steps = int(np.sum(np.diff(prefix_len) > 0)) + 1
  return {
    "response": tokens[prefix_len[0] : prefix_len[-1]].tolist(),
    "prefix_len": prefix_len[:steps].tolist(),
    "q_policy": [round(float(q), 6) for q in q_policy[:steps]],
    "q_prover": [round(float(q), 6) for q in q_prover[:steps]],
  }


def rerank(
  problem_id: Int[np.ndarray, "B"],
  samples: Samples,
  greedy: Samples,
  *,
  alpha: float,
  policy: TransformerConfig,
  networks: Sequence[VerifierConfig],
) -> Methods:
  """Rows of all that ranks or votes over the same samples.

  A row's `correct` is the share of the problem's groups of N samples whose
  answer is right; its response is the answer of the first group.

  Args:
    problem_id: which problems.
    samples: S of each.
    greedy: one of each.
    alpha: of PAV-as-ORM.
    policy: its network.
    networks: that have read the samples, for their values.
  """
  mask = samples.mask
  orm = np.asarray(best_of_n.orm_scores(samples.q_policy, mask))
  scores = {ORM: orm}
  for how in "min", "product":
    scores[f"{ORM}, {how} of steps"] = best_of_n.orm_scores(
      samples.q_policy, mask, how=how
    )
  for how in "mean", "min":
    scores[f"{ORM}, PAV {how}"] = best_of_n.pav_scores(
      samples.q_policy, samples.q_prover, mask, alpha=alpha, how=how
    )
  scores = {
    name: np.where(samples.ended, x, -np.inf) for name, x in scores.items()
  }
  weights = np.where(samples.ended & np.isfinite(orm), orm, 0.0)
  ns = [2**i for i in range(samples.outcome.shape[1].bit_length())]
  methods: Methods = {}

  def add(name, number, chosen, readers, given=samples):
    correct = best_of_n.accuracy(chosen, given.outcome)
    cost = costs.of_samples(
      policy, readers, given.prompt_len, given.length, number
    )
    any_correct = best_of_n.oracle(given.outcome, number)
    rows = []
    for b, of_cost in enumerate(cost.rows()):
      at = int(chosen[b, 0])
      rows.append(
        {
          "problem": int(problem_id[b]),
          "correct": float(correct[b]),
          "any_correct": float(any_correct[b]),
          **trace(
            given.tokens[b, at],
            given.prefix_len[b, at],
            given.q_policy[b, at],
            given.q_prover[b, at],
          ),
          **of_cost,
          "seconds": float(given.seconds[b]) * number / given.outcome.shape[1],
        }
      )
    methods.setdefault(name, {})[number] = rows

  for number in ns:
    for name, score in scores.items():
      add(name, number, best_of_n.best(score, number), networks)
    add("majority", number, voting.vote(samples.answers, number), [])
    add(
      "weighted majority",
      number,
      voting.vote(samples.answers, number, weights),
      networks,
    )
    oracle = best_of_n.best(samples.outcome, number)
    add(ORACLE, number, oracle, [])
  add(GREEDY, 1, np.zeros((len(problem_id), 1), int), [], greedy)
  return methods


def _curve(rows: Mapping[int, Sequence[Mapping]], name: str) -> np.ndarray:
  """[B, sizes] of a number of the rows."""
  return np.array([[row[name] for row in rows[n]] for n in rows]).T


def summarize(methods: Methods) -> dict[str, Any]:
  """Numbers of every method; differences to best-of-N are paired.

  `generated` … `verifier_flops` are means over problems. `equal_n`,
  `equal_tokens` and `equal_flops` are the differences of accuracy to best-of-N
  with an ORM at the same N, at as many generated tokens, and at as many
  FLOPs, and their standard errors; None beyond its sizes. `efficiency` is
  how many times cheaper the accuracy of best-of-N is, for N = 16 and the
  largest, in tokens and in FLOPs, with an interval of 95 %.
  """
  flops = {
    name: _curve(rows, "policy_flops") + _curve(rows, "verifier_flops")
    for name, rows in methods.items()
  }
  tokens = {name: _curve(rows, "generated") for name, rows in methods.items()}
  right = {name: _curve(rows, "correct") for name, rows in methods.items()}
  baseline = list(methods[ORM])
  report = {}
  for name, rows in methods.items():
    ns = list(rows)
    scores = [efficiency.mean_and_error(x) for x in right[name].T]
    out = {
      "n": ns,
      "accuracy": [mean for mean, _ in scores],
      "standard_error": [error for _, error in scores],
      "pass_at_n": _curve(rows, "any_correct").mean(0).tolist(),
      **{cost: _curve(rows, cost).mean(0).tolist() for cost in COSTS},
      "flops": flops[name].mean(0).tolist(),
      "seconds": _curve(rows, "seconds").mean(0).tolist(),
      "equal_n": [
        _difference(
          right[name][:, i],
          right[ORM][:, baseline.index(n)] if n in baseline else None,
        )
        for i, n in enumerate(ns)
      ],
      "equal_tokens": _at_equal(right, tokens, name),
      "equal_flops": _at_equal(right, flops, name),
    }
    out["efficiency"] = {
      str(n): {
        unit: dataclasses.asdict(
          efficiency.compute_efficiency(
            right[name],
            cost[name],
            right[ORM][:, baseline.index(n)],
            cost[ORM][:, baseline.index(n)],
          )
        )
        for unit, cost in (("tokens", tokens), ("flops", flops))
      }
      for n in sorted({min(16, baseline[-1]), baseline[-1]})
    }
    report[name] = out
  return report


def _difference(ours, theirs) -> list[float] | None:
  if theirs is None:
    return None
  return list(efficiency.mean_and_error(ours - theirs))


def _at_equal(right, cost, name) -> list[list[float] | None]:
  """Differences to best-of-N at the mean costs of a method's sizes."""
  return [
    _difference(
      right[name][:, i],
      efficiency.at_cost(right[ORM], cost[ORM], float(cost[name][:, i].mean())),
    )
    for i in range(right[name].shape[1])
  ]


def outcome_errors(
  validation: Samples, samples: Samples, *, alpha: float
) -> dict[str, Any]:
  """How often each step's score mispredicts the outcome (Fig. 10).

  Thresholds, one for each step, are fitted on validation samples.

  Args:
    validation: samples to fit on.
    samples: to predict.
    alpha: of the effective reward.
  """

  def flat(x):
    return jnp.asarray(x.reshape(-1, *x.shape[2:]))

  def scores(given):
    q = flat(given.q_policy)
    reward = advantages.effective_reward(
      q[:, 1:], advantages.step_advantages(flat(given.q_prover)), alpha=alpha
    )
    return {"q_policy": q[:, 1:], "effective_reward": reward}

  fitted, given = scores(validation), scores(samples)
  mask = flat(samples.mask)
  out: dict[str, Any] = {
    "step": list(range(1, mask.shape[1] + 1)),
    "rollouts": np.asarray(mask.sum(0)).tolist(),
  }
  for name, score in given.items():
    limits = thresholds.outcome_thresholds(
      fitted[name], flat(validation.outcome), flat(validation.mask)
    )
    errors = thresholds.outcome_errors(
      score, flat(samples.outcome), mask, thresholds=limits
    )
    out[name] = [
      float(x) if np.isfinite(x) else None for x in np.asarray(errors)
    ]
  return out


def verdict(report: Mapping[str, Any]) -> str:
  """The five best methods at the largest N that they were tried at."""
  best = sorted(
    (name for name in report if name != "Pass@N"),
    key=lambda name: -report[name]["accuracy"][-1],
  )[:5]
  return "accuracy: " + "; ".join(
    f"{name} (N = {report[name]['n'][-1]}) "
    f"{100 * report[name]['accuracy'][-1]:.1f} ± "
    f"{100 * report[name]['standard_error'][-1]:.1f} %"
    for name in best
  )


def write_table(
  path: pathlib.Path,
  experiment: str,
  report: Mapping[str, Any],
  tuned: Mapping[str, Any],
) -> None:
  """Accuracy of every method at every size, and what it cost."""

  def signed(pair):
    return (
      "–" if pair is None else f"{100 * pair[0]:+.1f} ± {100 * pair[1]:.1f}"
    )

  rows = []
  for name, method in report.items():
    for i, n in enumerate(method["n"]):
      rows.append(
        [
          name if i == 0 else "",
          str(n),
          f"{100 * method['accuracy'][i]:.1f} ± "
          f"{100 * method['standard_error'][i]:.1f}",
          f"{method['generated'][i]:.0f}",
          f"{method['flops'][i] / 1e6:.0f}",
          signed(method["equal_n"][i]),
          signed(method["equal_tokens"][i]),
          signed(method["equal_flops"][i]),
        ]
      )
  progress.table(
    f"{experiment}: α = {tuned['alpha']:g}; accuracy in %, generated tokens "
    "and millions of FLOPs a problem, points above best-of-N with an "
    "ORM at equal N, tokens, FLOPs",
    ["", "N", "accuracy", "tokens", "M", "equal N", "tokens", "FLOPs"],
    rows,
    path=path,
  )
