import pathlib

import gin
import numpy as np
import pytest

pytest.importorskip("sentencepiece")

from pav_jax.cli import configuration
from pav_jax.problems.grading import NormalizedMatch, SymbolicMatch
from pav_jax.problems.mathematics import MATH
from pav_jax.problems.pieces import SentencePieceVocabulary

ROOT = pathlib.Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "math"
GRADER = NormalizedMatch(num_workers=1)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  pytest.importorskip("seqio", reason="seqio is not installed")
  return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def problem(pieces_path, data_dir):
  return MATH(
    vocabulary=SentencePieceVocabulary(pieces_path),
    manual_dir=str(DATA),
    data_dir=data_dir,
    grader=GRADER,
    max_prompt_len=256,
    max_response_len=256,
  )


def test_splits_are_those_of_the_data_set(problem, pieces_path, data_dir):
  sizes = {split: len(rows) for split, rows in problem.records().items()}
  assert sizes == {"train": 13, "validation": 2, "test": 3}
  # Once it is written, the published files are not needed.
  settings = {
    "vocabulary": SentencePieceVocabulary(pieces_path),
    "data_dir": data_dir,
  }
  assert MATH(**settings).records() == problem.records()
  lightman = MATH(**settings, train=("train", "test_rest"))
  assert [record.key for record in lightman.records()["train"]][13:] == [
    "test/prealgebra/40.json"
  ]
  whole = MATH(**settings, test=("test_500", "test_rest"))
  assert len(whole.records()["test"]) == 4
  every = [r.key for rows in whole.records().values() for r in rows]
  assert len(set(every)) == len(every) == 13 + 2 + 4


def test_published_solutions_are_right(problem):
  for split, number in (("train", 13), ("validation", 2), ("test", 3)):
    ids = problem.problem_ids(split, 0, number)
    rollout = problem.demonstrations(ids, np.zeros_like(ids))
    assert (rollout.outcome == 1).all()
    np.testing.assert_array_equal(problem.grade(rollout), rollout.outcome)
    # And those of another problem are not.
    wrong = problem.rollout(ids, problem.responses(ids[::-1], ids), ids)
    assert wrong.outcome.sum() == number % 2


def test_it_is_a_seqio_task(problem):
  from pav_jax.data import tasks

  task = tasks.register("made_up_math", problem)
  assert task.num_input_examples("train") == 13
  for split, number in (("train", 13), ("validation", 2), ("test", 3)):
    ids = problem.problem_ids(split, 0, number)
    want = problem.demonstrations(ids, np.zeros_like(ids))
    got = list(task.get_dataset(split=split, shuffle=False).as_numpy_iterator())
    assert [row["problem_id"] for row in got] == ids.tolist()
    for row, tokens, prefix_len in zip(
      got, want.tokens, want.prefix_len, strict=True
    ):
      text = np.concatenate([row["inputs"], row["targets"]])
      assert len(row["inputs"]) == prefix_len[0]
      np.testing.assert_array_equal(text, tokens[: prefix_len[-1]])
  shards = [
    task.get_dataset(
      split="train",
      seed=1,
      shard_info=tasks.seqio.ShardInfo(index=i, num_shards=2),
    )
    for i in range(2)
  ]
  seen = [int(row["problem_id"]) for shard in shards for row in shard]
  assert sorted(seen) == problem.problem_ids("train", 0, 13).tolist()


def test_without_files_it_says_so(pieces_path, tmp_path, data_dir):
  vocabulary = SentencePieceVocabulary(pieces_path)
  empty = str(tmp_path / "tfds")
  with pytest.raises(ValueError, match=r"no data set hendrycks_math in .*tfds"):
    MATH(vocabulary=vocabulary, data_dir=empty).records()
  absent = MATH(
    vocabulary=vocabulary, data_dir=empty, manual_dir=str(tmp_path / "none")
  )
  with pytest.raises(
    ValueError, match=r"Manual directory .*none does not exist"
  ):
    absent.records()
  (tmp_path / "files").mkdir()
  (tmp_path / "files" / "test.jsonl").touch()
  wrong = MATH(
    vocabulary=vocabulary, data_dir=empty, manual_dir=str(tmp_path / "files")
  )
  with pytest.raises(ValueError, match="has no train/<subject>"):
    wrong.records()


@pytest.mark.parametrize(
  ("settings", "match"),
  [
    ({"train": ("validation",)}, "train is .'validation',."),
    ({"test": ()}, "test is .., expected some of"),
    (
      {"train": ("train", "test_rest"), "test": ("test_500", "test_rest")},
      "expected nothing in both",
    ),
  ],
)
def test_bad_settings(pieces_path, settings, match):
  with pytest.raises(ValueError, match=match):
    MATH(vocabulary=SentencePieceVocabulary(pieces_path), **settings)


@pytest.mark.parametrize("size", ["2b", "9b", "27b"])
def test_experiments_train_on_it(size, pieces_path, data_dir):
  gin.clear_config()
  configuration.parse_gin(
    [str(ROOT / f"gin/experiments/math_sft_gemma2_{size}.gin")],
    [
      "CHECKPOINT = 'unused'",
      f"VOCABULARY = {pieces_path!r}",
      f"MATH_DIR = {str(DATA)!r}",
      f"MATH.data_dir = {data_dir!r}",
      "GRADER = @SymbolicMatch()",
      "PromptFormat.num_shots = 1",
    ],
  )
  batches = gin.get_configurable("Mixture")()
  [problem] = batches.problems
  assert isinstance(problem, MATH) and problem.manual_dir == str(DATA)
  assert problem.grader == SymbolicMatch() and problem.prompt.num_shots == 1
  assert batches.row_length == problem.max_demonstration_len == 768
  assert problem.split_size("train") == 13
  # Read through seqio, which these tests have: 13 solutions are packed.
  batch, _ = batches(0)
  assert batches.reader == "seqio" and batch.tokens.shape == (32, 768)
  gin.clear_config()
