import json

import jax
import numpy as np
import pytest

from pav_jax.models import transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.problems.chain import Chain
from pav_jax.rollout import StepTargets
from pav_jax.training import value_fitting
from studies.scaling.analysis import Design, scaling, thin

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
  """The teacher's responses, and counts from their exact values."""
  ids = np.repeat(PROBLEM.problem_ids("train", start, stop), seeds)
  sample_id = np.tile(np.arange(seeds, dtype=np.int32), stop - start)
  rollout = PROBLEM.demonstrations(ids, sample_id)
  exists = np.diff(rollout.prefix_len, prepend=0) > 0
  n = np.where(exists, n, 0).astype(np.int32)
  q = PROBLEM.teacher_values(rollout)
  c = np.random.default_rng(start).binomial(n, q)
  c[:, 0] = np.repeat(c[::seeds, 0], seeds)  # the bare problem's, once
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
  own = labelled.copy()
  own[:, 0] = DATA.sample_id == 0  # shared by a problem's traces
  z = (drawn - 4 * p)[own].sum() / np.sqrt(variance[own].sum())
  assert abs(z) < 4
  ratio = np.square(drawn - 4 * p)[own].sum() / variance[own].sum()
  assert 0.9 < ratio < 1.1


def test_unlike_numbers_of_completions_are_even_on_a_logarithmic_scale():
  wanted = design(num_completions=15, least_completions=1)
  kept = thin(DATA, wanted, np.random.default_rng(0))
  n = kept.num_completions
  assert ((n > 0) == (DATA.num_completions > 0)).all()
  assert (n[::4, 0] == n[3::4, 0]).all()  # the bare problem's, once
  assert (kept.num_correct <= n).all() and n.max() == 15
  # From 1 to 16 there are four doublings, and in the first are the ones alone.
  own = n[:, 1:][n[:, 1:] > 0]
  shares = [np.mean((own >= 2**i) & (own < 2 ** (i + 1))) for i in range(4)]
  np.testing.assert_allclose(shares, 0.25, atol=4 * (0.19 / len(own)) ** 0.5)
  for least, most in ((0, 4), (5, 4), (1, None)):
    with pytest.raises(ValueError, match="least_completions is"):
      design(num_completions=most, least_completions=least)


def test_traces_of_a_problem_share_what_the_bare_problem_is_worth():
  kept = thin(DATA, design(num_completions=4), np.random.default_rng(0))
  first = kept.num_correct[:, 0].reshape(300, 4)
  np.testing.assert_array_equal(first, np.repeat(first[:, :1], 4, axis=1))
  assert len(np.unique(first)) > 2


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

  def trunk(key, layout, fingerprint):
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
      trunk=trunk,
      schedule=value_fitting.Schedule(
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
      trunk=trunk,
      schedule=value_fitting.Schedule(num_steps=1, learning_rate=1.0),
    )
