import json
import pathlib

import gin
import numpy as np
import pytest

pytest.importorskip("sentencepiece")
pytest.importorskip(
  "seqio", reason="seqio is not installed, as by default on Python 3.13"
)

from pav_jax.cli import configuration
from pav_jax.problems.frameworks import tfds
from pav_jax.problems.grading import NormalizedMatch
from pav_jax.problems.gsm8k import GSM8K
from pav_jax.problems.pieces import SentencePieceVocabulary

ROOT = pathlib.Path(__file__).parents[2]


def published(i):
  """A problem as the published files have it."""
  return {
    "question": f"Ann has {i} bags of 1,000 beans. How many beans has she?",
    "answer": (
      f"Each bag has 1000 beans.\nSo she has {i}*1000 = "
      f"<<{i}*1000={1000 * i}>>{1000 * i} beans.\n#### {1000 * i:,}"
    ),
  }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """The data set, written by TFDS's own builder from files of the tests."""
  folder = tmp_path_factory.mktemp("gsm8k")
  numbers = {"train": range(1, 41), "test": range(41, 51)}
  files = {}
  for split in ("train", "test", "train_socratic", "test_socratic"):
    rows = [published(i) for i in numbers[split.split("_")[0]]]
    files[split] = folder / f"{split}.jsonl"
    files[split].write_text("\n".join(map(json.dumps, rows)) + "\n")
  patch = pytest.MonkeyPatch()
  patch.setattr(
    tfds.download.DownloadManager,
    "download_and_extract",
    lambda self, urls: {split: files[split] for split in urls},
  )
  tfds.builder("gsm8k", data_dir=folder / "tfds").download_and_prepare()
  patch.undo()
  return str(folder / "tfds")


@pytest.fixture
def problem(pieces_path, data_dir):
  return GSM8K(
    vocabulary=SentencePieceVocabulary(pieces_path),
    data_dir=data_dir,
    grader=NormalizedMatch(num_workers=1),
    max_prompt_len=128,
    max_response_len=128,
  )


def test_splits(problem):
  records = problem.records()
  texts = {
    split: {record.problem for record in rows}
    for split, rows in records.items()
  }
  assert texts["test"] == {published(i)["question"] for i in range(41, 51)}
  assert not texts["train"] & texts["validation"]
  assert texts["train"] | texts["validation"] == {
    published(i)["question"] for i in range(1, 41)
  }
  # One in 15 of 40.
  assert 1 <= len(texts["validation"]) <= 8
  # Whatever the order on disk.
  keys = [record.key for record in records["test"]]
  assert keys == sorted(keys)


def test_solutions_are_without_annotations_and_right(problem):
  record = next(
    r for r in problem.records()["test"] if r.problem.startswith("Ann has 45 ")
  )
  assert record.solution == (
    "Each bag has 1000 beans.\nSo she has 45*1000 = 45000 beans.\n#### 45,000"
  )
  assert record.answer == "45,000"
  ids = problem.problem_ids("test", 0, 10)
  responses = problem.responses(ids, ids)
  assert problem.rollout(ids, responses, ids).outcome.sum() == 10
  shifted = np.roll(responses, 1, axis=0)
  assert problem.rollout(ids, shifted, ids).outcome.sum() == 0


def test_it_is_a_seqio_task(problem):
  from pav_jax.data import tasks

  task = tasks.register("made_up_gsm8k", problem, num_problems={"test": 4})
  rows = list(task.get_dataset(split="test", shuffle=False).as_numpy_iterator())
  ids = problem.problem_ids("test", 0, 4)
  assert [row["problem_id"] for row in rows] == ids.tolist()
  for row, problem_id in zip(rows, ids, strict=True):
    np.testing.assert_array_equal(
      row["targets"], problem.solution(int(problem_id))
    )


def test_the_gin_file_makes_it(pieces_path, data_dir):
  gin.clear_config()
  configuration.parse_gin(
    [
      str(ROOT / "gin/experiments/math_sft_gemma2_2b.gin"),
      str(ROOT / "gin/problems/gsm8k.gin"),
    ],
    [
      "CHECKPOINT = 'unused'",
      f"VOCABULARY = {pieces_path!r}",
      f"GSM8K.data_dir = {data_dir!r}",
    ],
  )
  batches = gin.get_configurable("Mixture")()
  [problem] = batches.problems
  assert isinstance(problem, GSM8K) and problem.max_steps == 16
  gin.clear_config()


def test_without_a_network_it_says_so(pieces_path, tmp_path, monkeypatch):
  def offline(self, urls):
    raise ConnectionError("no\nnetwork")

  monkeypatch.setattr(
    tfds.download.DownloadManager, "download_and_extract", offline
  )
  vocabulary = SentencePieceVocabulary(pieces_path)
  problem = GSM8K(vocabulary=vocabulary, data_dir=str(tmp_path))
  with pytest.raises(ValueError, match="cannot be made there: no network"):
    problem.records()
