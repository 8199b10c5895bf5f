import json
from unittest import mock

import jax
import numpy as np
import pytest

from pav_jax.models import transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.problems.chain import Chain
from pav_jax.provers.completions import CompleteFn
from pav_jax.rollout import StepTargets
from pav_jax.training import target_splits, value_fitting
from pav_jax.training.collect_seeds import Source, find_prefixes, owners
from studies.scaling.analysis import (
  Design,
  completions_made,
  scaling,
  thin,
)

PROBLEM = Chain(horizon=2, modulus=4, operations=Chain().operations[:1])
CONFIG = TransformerConfig(
  vocab_size=16,
  width=8,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_width=8,
  sliding_window=16,
  max_length=32,
)


def traces(start, stop, seeds, n=16):
  """The teacher's responses, and counts from their exact values.

  A prefix that traces of a problem share has one count, as collectors store it.
  """
  ids = np.repeat(PROBLEM.problem_ids("train", start, stop), seeds)
  sample_id = np.tile(np.arange(seeds, dtype=np.int32), stop - start)
  rollout = PROBLEM.demonstrations(ids, sample_id)
  exists = np.diff(rollout.prefix_len, prepend=0) > 0
  n = np.where(exists, n, 0).astype(np.int32)
  q = PROBLEM.teacher_values(rollout)
  c = np.random.default_rng(start).binomial(n, q)
  c = np.take_along_axis(c, owners(rollout), 0)
  return StepTargets(
    rollout.tokens,
    rollout.prefix_len,
    n,
    c.astype(np.float32),
    rollout.outcome,
    rollout.problem_id,
    rollout.sample_id,
  )


DATA = traces(0, 300, 4)
OWNS = owners(DATA) == np.arange(len(DATA.tokens))[:, None]


def design(**changes):
  return Design(
    **{"group": "g", "name": "d", "data": "DIR", "num_problems": 300} | changes
  )


def test_all_that_there_is_is_left_as_it_was():
  rng = np.random.default_rng(0)
  kept = thin(DATA, design(num_seeds=4, num_completions=16), rng)
  jax.tree.map(np.testing.assert_array_equal, kept, DATA)


def test_fewer_completions_are_drawn_without_replacement():
  kept = thin(DATA, design(num_completions=4), np.random.default_rng(0))
  labelled = DATA.num_completions > 0
  np.testing.assert_array_equal(kept.num_completions, 4 * labelled)
  n, c, drawn = 16, DATA.num_correct, kept.num_correct
  # No more right or wrong ones than there were.
  assert (drawn <= np.minimum(c, 4)).all()
  assert (drawn >= 4 - (n - c))[labelled].all()
  # Given c the mean is 4 c / n, the variance 4 p (1 - p) (n - 4) / (n - 1).
  p = c / n
  variance = 4 * p * (1 - p) * 12 / 15
  own = labelled & OWNS
  z = (drawn - 4 * p)[own].sum() / np.sqrt(variance[own].sum())
  assert abs(z) < 4
  ratio = np.square(drawn - 4 * p)[own].sum() / variance[own].sum()
  assert 0.9 < ratio < 1.1


def test_unlike_numbers_of_completions_are_even_on_a_logarithmic_scale():
  wanted = design(num_completions=15, least_completions=1)
  kept = thin(DATA, wanted, np.random.default_rng(0))
  n = kept.num_completions
  assert ((n > 0) == (DATA.num_completions > 0)).all()
  assert (kept.num_correct <= n).all() and n.max() == 15
  # From 1 to 16 there are four doublings, and in the first are the ones alone.
  own = n[OWNS & (n > 0)]
  shares = [np.mean((own >= 2**i) & (own < 2 ** (i + 1))) for i in range(4)]
  np.testing.assert_allclose(shares, 0.25, atol=4 * (0.19 / len(own)) ** 0.5)
  for least, most in ((0, 4), (5, 4), (1, None)):
    with pytest.raises(ValueError, match="least_completions is"):
      design(num_completions=most, least_completions=least)


@pytest.mark.parametrize("least", [None, 1])
def test_what_traces_share_is_completed_once(least):
  # Every prefix of a problem, bare or not, has one label, as the collector
  # stores it: eight traces do not draw eight times from the same completions.
  wanted = design(num_completions=4, least_completions=least, num_seeds=3)
  kept = thin(DATA, wanted, np.random.default_rng(0))
  labels = {}
  for row, lengths in enumerate(kept.prefix_len):
    for h in np.flatnonzero(kept.num_completions[row]):
      key = kept.problem_id[row], kept.tokens[row, : lengths[h]].tobytes()
      labels.setdefault(key, []).append(
        (kept.num_correct[row, h], kept.num_completions[row, h])
      )
  shared = [x for (_, tokens), x in labels.items() if len(x) > 1]
  assert len(shared) > 600  # more than the 300 bare problems
  assert all(len(set(x)) == 1 for x in shared)
  assert len({x[0] for x in shared}) > 2


def test_completions_are_counted_as_a_collector_makes_them():
  kept = thin(DATA, design(num_completions=4), np.random.default_rng(0))
  unused = mock.create_autospec(CompleteFn, instance=True)
  source = Source(PROBLEM, print, *[unused] * 3, dead_are_free=False)
  prefixes = find_prefixes(source, target_splits.rollout_of(kept))
  np.testing.assert_array_equal(
    completions_made(kept), 4 * prefixes.own.sum(-1)
  )
  # By hand: of two operations, the first trace pays for the bare problem and
  # one step; what is shared the others have for nothing.
  two = target_splits.take(kept, slice(1))
  assert completions_made(two).tolist() == [8]
  twice = jax.tree.map(lambda x: np.concatenate([x, x]), two)
  assert completions_made(twice).tolist() == [8, 0]


def test_a_budget_is_spent_on_the_problems_that_are_drawn_first():
  wanted = design(num_completions=4)
  whole = thin(DATA, wanted, np.random.default_rng(0))
  order = np.random.default_rng(0).choice(
    np.unique(DATA.problem_id), 300, replace=False
  )
  cost = {
    i: completions_made(whole)[whole.problem_id == i].sum() for i in order
  }
  budget = sum(cost[i] for i in order[:40]) + cost[order[40]] - 1
  kept = thin(
    DATA, design(num_completions=4, budget=budget), np.random.default_rng(0)
  )
  assert set(kept.problem_id) == set(order[:40])
  assert completions_made(kept).sum() == budget + 1 - cost[order[40]]
  # The same completions as without a budget.
  rows = np.isin(whole.problem_id, order[:40])
  jax.tree.map(
    np.testing.assert_array_equal, kept, target_splits.take(whole, rows)
  )
  total = sum(cost.values())
  with pytest.raises(ValueError, match=f"cost {total} completions"):
    thin(
      DATA,
      design(num_completions=4, budget=int(total) + 1),
      np.random.default_rng(0),
    )


def test_seeds_and_problems_are_dropped_whole():
  kept = thin(
    DATA, design(num_problems=50, num_seeds=2), np.random.default_rng(0)
  )
  ids, counts = np.unique(kept.problem_id, return_counts=True)
  assert len(ids) == 50 and (counts == 2).all()
  assert set(kept.sample_id) == {0, 1}
  other = thin(DATA, design(num_problems=50), np.random.default_rng(1))
  assert set(other.problem_id) != set(ids)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"num_problems": 301}, "DIR has 300 problems, expected at least 301"),
    ({"num_seeds": 5}, "has 4 traces of a problem, expected at least 5"),
    ({"num_completions": 17}, "has 16 completions of a prefix, expected at"),
  ],
)
def test_asking_for_more_than_there_is(change, message):
  with pytest.raises(ValueError, match=message):
    thin(DATA, design(**change), np.random.default_rng(0))


def test_a_study_measures_each_design_once(tmp_path, capsys):
  pytest.importorskip(
    "pav_jax.problems.frameworks",
    reason="the extra `data` is not installed",
    exc_type=ImportError,
  )
  from pav_jax.data import step_targets_writer

  for name, targets in (("train", DATA), ("held", traces(300, 330, 2))):
    step_targets_writer.write(
      tmp_path / name,
      targets,
      config={},
      fingerprint=PROBLEM.fingerprint,
      pad_id=PROBLEM.vocabulary.pad_id,
    )

  calls = []

  def backbone(key, layout, fingerprint):
    calls.append(key)
    return CONFIG, transformer.init(CONFIG, jax.random.key(0))

  def run(steps=4, **more):
    designs = [
      design(name=str(m), data=str(tmp_path / "train"), num_completions=m)
      for m in (1, 16)
    ]
    return scaling(
      tmp_path / "out",
      "study",
      problem=PROBLEM,
      designs=designs,
      held_out=str(tmp_path / "held"),
      backbone=backbone,
      schedule=value_fitting.VerifierSchedule(
        num_steps=steps, learning_rate=1e-3, batch_size=8
      ),
      chunk=3,
      **more,
    )

  first = run(seeds=(0,))
  assert len(calls) == 2
  lines = tmp_path / "out" / "results.jsonl"
  # Cut off in the middle of a line: that one is measured again, to the bit.
  lines.write_bytes(lines.read_bytes()[:-5])
  both = run(seeds=(0, 1))
  assert len(calls) == 2 + 1 + 2
  for name in ("1", "16"):
    for measure, values in first["g"][name].items():
      assert both["g"][name][measure][0] == pytest.approx(values[0], rel=1e-6)
      assert len(both["g"][name][measure]) == 2
  report = json.loads((tmp_path / "out" / "report.json").read_text())
  assert report["arms"] == both
  assert (tmp_path / "out" / "scaling.png").stat().st_size > 0
  assert "study: g" in capsys.readouterr().out
  with pytest.raises(ValueError, match="measured with other settings"):
    run(steps=5)
  with pytest.raises(ValueError, match="designs are"):
    scaling(
      tmp_path / "x",
      "x",
      problem=PROBLEM,
      designs=[],
      held_out="",
      backbone=backbone,
      schedule=value_fitting.VerifierSchedule(num_steps=1, learning_rate=1.0),
    )
