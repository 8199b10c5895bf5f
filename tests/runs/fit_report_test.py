import functools
import json

import jax
import numpy as np
import pytest

from pav_jax.problems.chain import Chain
from pav_jax.problems.plain_text import PlainText
from pav_jax.reporting import drawing
from pav_jax.rollout import StepTargets
from pav_jax.runs import fit_report
from pav_jax.runs.labelled_data import LabelledData
from pav_jax.training import labelling
from pav_jax.training import value_evaluation as evaluation
from tests.reporting import looking

PROBLEM = Chain(horizon=2)
IDS = PROBLEM.problem_ids("validation", 0, 30)
ROLLOUT = PROBLEM.demonstrations(IDS, np.zeros_like(IDS))
N = np.where(np.diff(ROLLOUT.prefix_len, prepend=0) > 0, 4, 0)
TARGETS = StepTargets(
  ROLLOUT.tokens,
  ROLLOUT.prefix_len,
  N.astype(np.int32),
  (N * PROBLEM.teacher_values(ROLLOUT)).astype(np.float32),
  ROLLOUT.outcome,
  ROLLOUT.problem_id,
  ROLLOUT.sample_id,
)


def test_validation_loss_is_the_training_loss_on_held_out_traces():
  judged = labelling.examples(TARGETS, labelling.Labelling())
  known = evaluation.references(PROBLEM, TARGETS)
  logit = np.random.default_rng(0).normal(size=N.shape)
  found = fit_report.validation(logit, judged, known)
  # −y log σ(l) − (1 − y) log(1 − σ(l)), weighted, per trace.
  q, y = 1 / (1 + np.exp(-logit)), judged.label
  entropy = -y * np.log(q) - (1 - y) * np.log(1 - q)
  expected = (judged.weight * entropy).sum() / len(q)
  assert found["loss"] == pytest.approx(expected, rel=1e-5)
  measured = evaluation.measure(q, known)
  for name, value in (
    ("auc_outcome", measured["outcome"]["auc"]["middle"]),
    ("auc_no_error", measured["no_error"]["within"]["least_middle"]),
    ("corr_mc", measured["monte_carlo"]["correlation"]["middle"]),
    ("ece_mc", measured["monte_carlo"]["ece"]["all"]),
  ):
    assert found[name] == pytest.approx(value, abs=1e-5)


def test_steps_of_a_tests_figures_are_faded_by_how_many_traces_it_has(
  tmp_path, drawn
):
  """The test part's, which has 10; the validation part has 30."""

  def score(targets):
    return np.random.default_rng(0).normal(size=targets.prefix_len.shape)

  few = jax.tree.map(lambda x: x[:10], TARGETS)
  data = LabelledData(train=TARGETS, validation=TARGETS, test=few)
  fit_report.test(
    tmp_path,
    score,
    PROBLEM,
    data,
    exact=None,
    scaling=None,
    process_bench=(),
    num_inspected=1,
    title="",
  )
  by_step = [x for x in drawn if "by step" in looking.words(x)]
  assert len(by_step) == 2
  for figure in by_step:
    assert drawing.FADED_SAYS in looking.words(figure)


class Letters:
  """Scores a prefix by its last word: a step is good unless it says "bad"."""

  def logits(self, rollout):
    at = jax.numpy.maximum(rollout.prefix_len - 2, 0)
    last = jax.numpy.take_along_axis(
      jax.numpy.asarray(rollout.tokens), at, axis=1
    )
    return jax.numpy.where(last == ord("d"), -3.0, 3.0)


jax.tree_util.register_static(Letters)


class Bytes:
  """Characters are tokens, padding is 0 and the end 1."""

  vocab_size, pad_id, eos_id = 128, 0, 1
  token_text = staticmethod(chr)
  encode = staticmethod(lambda text: list(text.encode()))
  decode = staticmethod(lambda ids: bytes(ids).decode())


def test_process_bench_thresholds_come_from_the_first_file(tmp_path):
  def entry(name, steps, label):
    return {
      "id": name,
      "problem": "p",
      "steps": steps,
      "label": label,
      "final_answer_correct": label < 0,
    }

  files = []
  for name, last in (("a", 2), ("b", -1)):
    # The second file says of one erroneous sample that it is correct.
    entries = [
      entry("1", ["fine", "bad"], 1),
      entry("2", ["fine", "fine"], -1),
      entry("3", ["fine", "fine", "bad"], last),
    ]
    files.append(tmp_path / f"{name}.json")
    files[-1].write_text(json.dumps(entries))
  score_fn = functools.partial(evaluation.score, Letters())
  found = fit_report.process_bench_scores(score_fn, PlainText(Bytes()), files)
  # Of one erroneous sample all are found, of two correct ones a half.
  assert found["erroneous"] == 1
  assert found["correct"] == 0.5
  assert found["f1"] == pytest.approx(2 * 0.5 / 1.5, abs=1e-4)
  assert 0.047 < found["threshold"] < 0.953  # between σ(−3) and σ(3)
