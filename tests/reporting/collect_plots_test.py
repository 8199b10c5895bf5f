import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.reporting import collect_plots, drawing
from pav_jax.rollout import StepTargets
from tests.reporting import looking

# Two traces of a problem and one of another. Values, whole responses in
# parentheses: 8/16, 16/16, (1); 8/16, 0/16, 3/16, (0); 2/16, then unknown.
TARGETS = StepTargets(
  tokens=np.ones((3, 9), np.int32),
  prefix_len=np.array([[2, 4, 6, 6], [2, 4, 6, 8], [2, 4, 6, 9]]),
  num_completions=np.array([[16, 16, 16, 0], [16, 16, 16, 16], [16, 0, 0, 0]]),
  num_correct=np.array([[8.0, 16, 16, 0], [8, 0, 3, 0], [2, 0, 0, 0]]),
  outcome=np.array([1.0, 0.0, 0.0]),
  problem_id=np.array([0, 0, 3]),
  sample_id=np.array([0, 1, 0]),
)


def test_summary_by_hand():
  found = collect_plots.summarize(TARGETS)
  assert found["traces"] == 3 and found["problems"] == 2
  assert found["accuracy"] == pytest.approx(1 / 3)
  # Six prefixes that are known and not whole.
  assert found["labels"] == 6 and found["completions"] == 96
  assert found["labels_by_step"] == [3, 2, 1, 0]
  # 1/2 twice; 1; 0; 3/16; 2/16.
  assert found["values"] == [1, 2, 0, 0, 0, 2, 0, 0, 0, 1]
  means = [18 / 48, 1 / 2, 3 / 16, None]
  assert found["value_by_step"] == pytest.approx(means)
  # 3 of 16 is decided at 95 %, 8 of 16 is not.
  assert found["decided_by_step"] == pytest.approx([1 / 3, 1.0, 1.0, None])
  assert found["decided"] == pytest.approx(4 / 6)
  # The second trace has value 1/2, then 0 at step 1; the third is not known to.
  assert found["traces_with_pit"] == 1
  assert found["pits_by_step"] == [0, 1, 0, 0]
  # It never had a value of .6.
  high = collect_plots.summarize(TARGETS, pit_high=0.6)
  assert high["traces_with_pit"] == 0


def test_unknown_prefixes_are_no_pits():
  pits = collect_plots.first_pits(TARGETS, pit_high=0.1)
  assert pits.tolist() == [0, 1, 0]


def test_figure_and_tables(tmp_path, capsys):
  summary = collect_plots.summarize(TARGETS)
  path = collect_plots.figure(tmp_path, summary)
  assert path.read_bytes().startswith(b"\x89PNG")
  work = dict.fromkeys(
    ("stored", "deciding", "saved", "free_final", "free_dead", "free_shared"),
    7,
  )
  work |= {"completions": 1234, "completions_per_second": 56.7}
  for useful, said in ((0.891, True), (None, False)):
    collect_plots.print_tables("test", summary, work | {"useful_slots": useful})
    out = capsys.readouterr().out
    assert "1,234 completions, 57 a second" in out
    assert ("89 % of decode slots useful" in out) == said
    assert "3 traces of 2 problems, 33.3 % correct; 6 prefixes" in out


def test_steps_of_few_traces_are_faded(tmp_path, drawn):
  summary = collect_plots.summarize(TARGETS)
  summary |= {"labels_by_step": [300, 20, 19, 0]}
  collect_plots.figure(tmp_path, summary)
  (figure,) = drawn
  values, by_step, decided, pits = figure.axes
  for panel in by_step, decided:
    faded, clear = panel.lines
    assert faded.get_alpha() == drawing.FADED
    assert len(looking.data(faded)) == 3 and len(looking.data(clear)) == 2
  clear = [1, 1, drawing.FADED, drawing.FADED]
  assert [bar.get_alpha() for bar in pits.patches] == clear
  assert drawing.FADED_SAYS in looking.words(figure)
  assert "probability" in values.get_xlabel()


def test_no_traces(tmp_path, capsys):
  none = jax.tree.map(lambda x: x[:0], TARGETS)
  summary = collect_plots.summarize(none)
  assert summary["traces"] == summary["labels"] == 0
  collect_plots.figure(tmp_path, summary)
  assert dataclasses.asdict(none)["tokens"].shape == (0, 9)
