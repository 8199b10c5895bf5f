import gzip
import itertools
import json

import numpy as np
import pytest

from pav_jax.problems.json_lines import JsonLines, count
from pav_jax.problems.prompt_format import PromptFormat
from pav_jax.testing.byte_tokens import ByteTokens


def _lines(number):
  return [
    {
      "problem": f"{i}+1?",
      "solution": f"{i}+1={i + 1}\n#### {i + 1}",
      "answer": i + 1,
    }
    for i in range(number)
  ]


@pytest.fixture
def written(tmp_path):
  """Writes lines; gives the file's path."""

  def write(lines):
    path = tmp_path / "questions.jsonl"
    texts = [x if isinstance(x, str) else json.dumps(x) for x in lines]
    path.write_text("\n".join(texts) + "\n")
    return path

  return write


def _problem(path, **settings):
  return JsonLines(
    path=str(path),
    vocabulary=ByteTokens(),
    prompt=PromptFormat(question="{problem} "),
    max_prompt_len=16,
    max_response_len=32,
    **settings,
  )


def test_every_line_is_in_one_split_by_its_text(written):
  path = written(_lines(200))
  splits = _problem(path).records()
  texts = {k: [x.problem for x in records] for k, records in splits.items()}
  assert sorted(itertools.chain(*texts.values())) == sorted(
    f"{i}+1?" for i in range(200)
  )
  # 160, 20 and 20 are expected; three standard deviations are 17 and 13.
  assert abs(len(texts["train"]) - 160) < 17
  assert all(7 <= len(texts[x]) <= 33 for x in ("validation", "test"))
  assert count(path) == tuple(len(texts[x]) for x in splits)
  # Further lines move none.
  more = _problem(written(_lines(300))).records()
  assert all(set(texts[k]) <= {x.problem for x in more[k]} for k in splits)


def test_a_demonstration_is_the_solution_and_is_right(written):
  problem = _problem(written(_lines(50)))
  ids = problem.problem_ids("train", 0, 3)
  rollout = problem.demonstrations(ids, np.zeros_like(ids))
  assert problem.grade(rollout).tolist() == [1, 1, 1]
  record = problem.records()["train"][0]
  words = problem.vocabulary
  response = problem.responses(ids[:1], ids[:1])[0]
  assert words.decode(response[: len(record.solution)]) == record.solution


def test_a_solution_without_its_answer_gets_it_as_a_last_line(written):
  line = {"problem": "p", "solution": "2+1=3", "answer": "3", "split": "train"}
  (record,) = _problem(written([line])).records()["train"]
  assert record.solution == "2+1=3\n#### 3"


def test_lines_say_their_split_and_those_without_solution_are_held_out(written):
  lines = [{"problem": f"{i}?", "answer": "1"} for i in range(30)] + [
    line | {"split": "validation"} for line in _lines(3)
  ]
  lines.append(_lines(5)[4] | {"split": "train"})
  splits = _problem(written(lines)).records()
  assert [x.problem for x in splits["train"]] == ["4+1?"]
  held_out = [len(splits[x]) for x in ("validation", "test")]
  assert sum(held_out) == 33 and min(held_out) > 5


@pytest.mark.parametrize(
  "compress", [gzip.compress, lambda x: b"\xef\xbb\xbf" + x]
)
def test_files_are_read_as_people_have_them(tmp_path, compress):
  text = "\n\n".join(json.dumps(x) for x in _lines(9))
  path = tmp_path / "questions"
  path.write_bytes(compress(text.encode()))
  records = _problem(path).records()
  assert sum(map(len, records.values())) == 9


def test_a_line_ends_with_a_newline_and_nothing_else(tmp_path):
  # JSON strings may hold U+2028, at which Python splits lines.
  line = _lines(1)[0] | {"problem": "a\u2028b", "split": "train"}
  path = tmp_path / "questions"
  path.write_text(json.dumps(line, ensure_ascii=False) + "\r\n")
  (record,) = _problem(path).records()["train"]
  assert record.problem == "a\u2028b"


def test_what_a_file_says_is_part_of_the_problem_and_its_place_is_not(
  written, tmp_path
):
  path = written(_lines(9))
  problem, other = _problem(path), tmp_path / "moved"
  other.write_bytes(path.read_bytes())
  assert repr(_problem(other)) == repr(problem)
  other.write_text(json.dumps(_lines(1)[0]))
  assert repr(_problem(other)) != repr(problem)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("{", "line 2 is no JSON"),
    ("[1]", r"line 2 is '\[1\]', expected a JSON object"),
    (
      {"question": "?", "answer": 1},
      "has question, answer, expected problem in",
    ),
    ({"problem": "?"}, "line 2 has problem, expected answer in it"),
    (
      {"problem": "?", "answer": None},
      "line 2 has problem, answer, expected a",
    ),
    ({"problem": ["?"], "answer": 1}, r"problem is \['\?'\], expected text"),
    ({"problem": " ", "answer": 1}, "problem is ' ', expected text"),
    ({"problem": "?", "answer": True}, "answer is True, expected text"),
    ({"problem": "?", "answer": 1, "split": "dev"}, "split is 'dev', expected"),
    ({"problem": "?", "answer": 1, "split": "train"}, "train, expected a sol"),
    (
      {"problem": "?", "answer": 1, "solution": "#### 2", "split": "train"},
      "line 2: the solution ends with the answer '2', expected that of the lin",
    ),
  ],
)
def test_a_bad_line_is_named(written, line, message):
  path = written([_lines(1)[0] | {"split": "train"}, line])
  with pytest.raises(ValueError, match=message):
    _problem(path).records()


def test_a_file_without_training_is_refused(written):
  with pytest.raises(ValueError, match="has 1 lines and none for training"):
    _problem(written([{"problem": "?", "answer": 1}])).records()
  line = _lines(1)[0] | {"split": "train"}
  with pytest.raises(ValueError, match="1 lines and none for validation"):
    count(written([line]))
