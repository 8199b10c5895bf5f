import dataclasses
import json

import numpy as np
import pytest

from pav_jax.problems.plain_text import PlainText
from pav_jax.provers.public.reencoding import PublicReader
from pav_jax.provers.public.step_joining import SeparatedSteps
from pav_jax.provers.rollout_values import ClosedForm
from pav_jax.runs.step_benchmarks import BenchmarkSettings, step_benchmarks
from pav_jax.testing.byte_tokens import ByteTokens

TOKENS = ByteTokens()
PROBLEM = PlainText(TOKENS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspicious(PublicReader):
  """A reward model: a step that ends with "?" is less sure than others."""

  meaning: str = "correctness"

  @property
  def networks(self):
    return ()

  def scores(self, tokens, mark, begin=None):
    last = np.take_along_axis(tokens, np.maximum(mark - 1, 0), axis=1)
    score = np.where(last == TOKENS.encode("?")[0], 0.3, 0.9)
    return np.where(mark >= 0, score, np.nan).astype(np.float32)


READER = Suspicious(params={}, joining=SeparatedSteps(), tokenizer=TOKENS)
PROVERS = {
  "minimum": READER.prover(PROBLEM, rule="minimum"),
  "product": READER.prover(PROBLEM, rule="product"),
  "never doubts": ClosedForm(lambda x: np.full(x.prefix_len.shape, 0.8)),
}


def process_bench(path, *rows):
  entries = [
    {
      "id": str(i),
      "problem": "p",
      "steps": list(steps),
      "label": label,
      "final_answer_correct": label < 0,
    }
    for i, (steps, label) in enumerate(rows)
  ]
  path.write_text(json.dumps(entries))
  return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("files")
  changed = {
    "idx": "a",
    "classification": "circular",
    "modified_question": "p",
    "modified_process": ["1. a", "2. b?", "3. c"],
    "error_steps": [2],
  }
  path = folder / "prm_bench.jsonl"
  path.write_text(json.dumps(changed) + "\n")
  return {
    "process_bench": {
      "gsm8k": process_bench(
        folder / "gsm8k.json",
        (("a", "b?", "c"), 1),
        (("a", "b"), -1),
        (("a", "b?"), -1),
      ),
      # Eight sure steps are worth .43 by the product.
      "math": process_bench(
        folder / "math.json", (("a",) * 9, -1), (("a?", "b?"), 0)
      ),
    },
    "prm_bench": path,
  }


def settings(files, **options):
  return BenchmarkSettings(problem=PROBLEM, provers=PROVERS, **files | options)


def test_provers_are_scored_as_published(files, tmp_path, capsys):
  report = step_benchmarks(tmp_path, "bench", settings(files, rows_per_call=2))
  minimum = report["minimum"]["process_bench"]
  assert minimum["gsm8k"] == {
    "erroneous": 1.0,
    "correct": 0.5,
    "f1": pytest.approx(2 / 3, abs=1e-4),
  }
  assert minimum["math"]["f1"] == 1.0
  assert minimum["average"] == pytest.approx(5 / 6, abs=1e-4)
  product = report["product"]["process_bench"]
  assert product["gsm8k"] == minimum["gsm8k"]
  assert product["math"] == {"erroneous": 1.0, "correct": 0.0, "f1": 0.0}
  # Nothing is wrong to it: half of the accuracy, and no F1.
  assert report["never doubts"]["process_bench"]["average"] == 0.0
  bench = report["minimum"]["prm_bench"]["kinds"]["circular"]
  # Behind an error the minimum stays low: the third step is refused.
  assert bench["f1"] == bench["negative_f1"] == pytest.approx(2 / 3, abs=1e-4)
  written = json.loads((tmp_path / "report.json").read_text())
  assert written["arms"] == report
  out = capsys.readouterr().out
  assert "66.7 (100.0 / 50.0)" in out and "PRMScore" in out


@pytest.mark.parametrize("subsets", [("gsm8k", "math"), ("math", "gsm8k")])
def test_a_threshold_may_be_chosen_on_a_subset(files, subsets, tmp_path):
  """The one that is named, wherever it stands."""
  ordered = {name: files["process_bench"][name] for name in subsets}
  files = files | {"process_bench": ordered, "prm_bench": None}
  report = step_benchmarks(tmp_path, "bench", settings(files, tune_on="math"))
  # Between the product of nine sure steps, .387, and .3 of an unsure one.
  assert 0.3 < report["product"]["threshold"] <= 0.9**9
  assert report["product"]["process_bench"]["math"]["f1"] == 1.0
  assert "prm_bench" not in report["product"]


@pytest.mark.parametrize(
  "options, message",
  [
    ({"provers": {}}, "expected a prover and a file"),
    ({"process_bench": {}, "prm_bench": None}, "expected a prover and a file"),
    ({"threshold": 1.5}, "threshold is 1.5"),
    ({"tune_on": "olympiad"}, "tune_on is 'olympiad', expected a subset"),
    ({"rows_per_call": 0}, "rows_per_call"),
  ],
)
def test_settings_out_of_range_are_refused(files, options, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(settings(files), **options)
