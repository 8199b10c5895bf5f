import dataclasses
import itertools
from typing import ClassVar

import jax
import numpy as np
import pytest

pytest.importorskip("sentencepiece")

from pav_jax.data import process_bench, step_labels, step_labels_trl
from pav_jax.data.packing import Demonstrations
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import ProblemPolicy, language_model
from pav_jax.problems import base
from pav_jax.problems.answer_groups import NO_ANSWER
from pav_jax.problems.base import SPLITS, TextProblem
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.grading import NormalizedMatch, SymbolicMatch
from pav_jax.problems.pieces import SentencePieceVocabulary
from pav_jax.problems.prompt_format import PromptFormat, Record
from pav_jax.search import voting
from pav_jax.training.evaluation import evaluate


def made(split, number, long=()):
  return tuple(
    Record(
      f"{split}/{i}",
      f"What is {i}+{i}?" + " really?" * (60 * (i in long)),
      f"It is {i}+{i}.\nThat is\n$\\boxed{{{2 * i}}}$.",
      f"{2 * i}",
    )
    for i in range(number)
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums(DataProblem):
  """Some of its problems of train, and one of test if asked for, are long."""

  long_test: tuple = ()

  def records(self):
    return {
      "train": made("train", 20, long=(3, 4)),
      "validation": made("validation", 5),
      "test": made("test", 7, self.long_test),
    }


class Recording:
  """A grader that says yes to responses of even length, and keeps what came."""

  seen: ClassVar[list] = []

  def __call__(self, responses, answers):
    self.seen.append((list(responses), list(answers)))
    return np.array([len(text) % 2 == 0 for text in responses])


@pytest.fixture
def problem(pieces_path):
  return Sums(
    vocabulary=SentencePieceVocabulary(pieces_path),
    grader=NormalizedMatch(num_workers=1),
    max_prompt_len=96,
    max_response_len=64,
    max_steps=4,
  )


def test_it_is_a_text_problem(problem):
  assert isinstance(problem, TextProblem)
  assert problem == dataclasses.replace(problem)
  assert hash(problem) == hash(dataclasses.replace(problem))
  assert problem.ends_step[4] and problem.fingerprint


def test_ids_skip_what_is_too_long(problem):
  # Split s has ids 3 index + s; 3 and 4 of train are too long.
  assert problem.split_size("train") == 18
  ids = problem.problem_ids("train", 1, 5)
  assert ids.tolist() == [3, 6, 15, 18] and ids.dtype == np.int32
  assert problem.problem_ids("test", 0, 7).tolist() == list(range(2, 23, 3))
  short = dataclasses.replace(problem, max_length=20, max_prompt_len=1000)
  with pytest.raises(ValueError, match="shortest problem of split 'train'"):
    short.split_size("train")
  roomy = dataclasses.replace(problem, max_prompt_len=1000)
  assert roomy.split_size("train") == 20


def test_prompts_differ_in_length(problem):
  ids = problem.problem_ids("test", 0, 7)
  prompts, lengths = problem.prompts(ids), problem.prompt_lengths(ids)
  assert prompts.shape == (7, 96) and prompts.dtype == np.int32
  texts = [f"Problem:\nWhat is {i}+{i}?\n\nSolution:\n" for i in range(7)]
  for row, length, text in zip(prompts, lengths, texts, strict=True):
    assert row[0] == problem.vocabulary.bos_id
    assert problem.vocabulary.decode(row[:length]) == text
    assert (row[:length] != 0).all() and (row[length:] == 0).all()


def test_demonstrations_are_rollouts(problem):
  ids = problem.problem_ids("train", 2, 6)
  rollout = problem.demonstrations(ids, np.arange(4))
  assert rollout.tokens.shape == (4, 96 + 64)
  np.testing.assert_array_equal(
    rollout.prefix_len[:, 0], problem.prompt_lengths(ids)
  )
  np.testing.assert_array_equal(problem.grade(rollout), rollout.outcome)
  for row, ends, index in zip(
    rollout.tokens, rollout.prefix_len, ids // 3, strict=True
  ):
    # Three lines are three steps; the last ends with the end token.
    steps = [
      problem.vocabulary.decode(row[begin:end])
      for begin, end in itertools.pairwise(ends)
    ]
    assert steps == [
      f"It is {index}+{index}.\n",
      "That is\n",
      f"$\\boxed{{{2 * index}}}$.",
      "",
    ]
    assert row[ends[-1] - 1] == problem.vocabulary.eos_id
    assert (row[ends[-1] :] == 0).all()
  assert not base.dead_prefixes(problem, rollout).any()


def test_responses_are_graded_as_texts_that_ended(problem, monkeypatch):
  vocabulary = problem.vocabulary
  problem = dataclasses.replace(problem, grader=Recording())
  monkeypatch.setattr(Recording, "seen", [])
  encoded = [
    [*vocabulary.encode("four"), 1],
    [*vocabulary.encode("four")],  # no end
    [*vocabulary.encode("one"), 1, *vocabulary.encode("four"), 1],
    [1],
    [vocabulary.vocab_size, 1],  # no token of the vocabulary
    [0, *vocabulary.encode("four"), 1],  # padding: no response
  ]
  responses = np.zeros((6, 12), np.int32)
  for row, ids in zip(responses, encoded, strict=True):
    row[: len(ids)] = ids
  ids = problem.problem_ids("test", 0, 6)
  rollout = problem.rollout(ids, responses, np.zeros(6, int))
  assert rollout.outcome.tolist() == [1, 0, 0, 1, 0, 0]
  assert Recording.seen == [(["four", "one", ""], ["0", "4", "6"])]
  answers = problem.answers(ids)
  for response, answer, want in zip(
    responses, answers, rollout.outcome, strict=True
  ):
    assert problem.is_correct(response, answer) == want
    assert problem.is_correct(response.tolist(), answer.tolist()) == want


def test_right_answers_are_right(problem):
  # Graded for real: the answer of problem i is 2 i.
  ids = problem.problem_ids("test", 0, 4)
  responses = problem.responses(ids, np.zeros(4, int))
  assert problem.rollout(ids, responses, ids).outcome.tolist() == [1] * 4
  assert problem.rollout(ids, responses[::-1], ids).outcome.tolist() == [0] * 4


def test_shots_go_before_and_stop_responses(problem):
  problem = dataclasses.replace(
    problem, prompt=PromptFormat(num_shots=1, seed=1), max_prompt_len=400
  )
  ids = problem.problem_ids("train", 0, 3)
  texts = [
    problem.vocabulary.decode(row[:length])
    for row, length in zip(
      problem.prompts(ids), problem.prompt_lengths(ids), strict=True
    )
  ]
  first, other = problem.prompt.shots(problem.records()["train"])
  for text, index in zip(texts, ids // 3, strict=True):
    shot = other if first.problem == f"What is {index}+{index}?" else first
    assert text.startswith(f"Problem:\n{shot.problem}\n\nSolution:\n")
    assert shot.solution in text
    assert text.endswith(
      f"\n\nProblem:\nWhat is {index}+{index}?\n\nSolution:\n"
    )
  # Without an end token, but with another problem begun.
  text = "\\boxed{0}\n\nProblem:\nWhat is \\boxed{5}"
  response = np.array(problem.vocabulary.encode(text), np.int32)[None]
  (outcome,) = problem.rollout(
    problem.problem_ids("test", 0, 1), response, np.zeros(1, int)
  ).outcome
  assert outcome == 1


def responses_of(problem, texts, ids):
  """Rollouts with these responses; `<end>` is the end token."""
  encode = problem.vocabulary.encode
  rows = [
    [*encode(text.removesuffix("<end>")), *[1] * text.endswith("<end>")]
    for text in texts
  ]
  responses = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row, tokens in zip(responses, rows, strict=True):
    row[: len(tokens)] = tokens
  return problem.rollout(ids, responses, np.arange(len(rows)))


def test_votes_are_for_answers_that_the_grader_takes_for_equal(problem):
  pytest.importorskip("mpmath")
  problem = dataclasses.replace(
    problem, grader=SymbolicMatch(num_workers=1), max_prompt_len=800
  )
  texts = [
    "so $\\boxed{5}$.<end>",
    "$\\boxed{7}$<end>",
    "$\\boxed{6}$<end>",
    "that is $\\boxed{6}$.<end>",
    "$\\boxed{6}$",  # cut off
    "$\\boxed{12/2}$<end>",
    "six<end>",  # no answer
    "$\\boxed{0.5}$<end>",
    "$\\boxed{\\frac{1}{2}}$.<end>",
  ]
  ids = np.repeat(problem.problem_ids("test", 3, 4), len(texts))
  rollout = responses_of(problem, texts, ids)
  want = [0, 1, 2, 2, NO_ANSWER, 2, NO_ANSWER, 3, 3]
  assert problem.final_answers(rollout).tolist() == want
  # The majority is right: 3 + 3.
  (chosen,) = voting.vote(np.array([want]), len(want))[0]
  assert rollout.outcome[chosen] == 1
  # After shots no response ends with the end token.
  shots = dataclasses.replace(problem, prompt=PromptFormat(num_shots=1))
  texts = [
    text.removesuffix("<end>") + "\n\nProblem:\nWhat is \\boxed{1}"
    for text in texts
    if text.endswith("<end>")
  ]
  rollout = responses_of(shots, [*texts, "$\\boxed{6}$"], ids)
  want = [0, 1, 2, 2, 2, NO_ANSWER, 3, 3, NO_ANSWER]
  assert shots.final_answers(rollout).tolist() == want


def test_votes_with_a_grader_that_does_not_compare(problem):
  problem = dataclasses.replace(problem, grader=Recording())
  texts = ["a\n1<end>", "1<end>", "a\n2<end>", "1", "<end>"]
  ids = np.repeat(problem.problem_ids("test", 3, 4), len(texts))
  answers = problem.final_answers(responses_of(problem, texts, ids))
  assert answers.tolist() == [0, 0, 1, NO_ANSWER, NO_ANSWER]


@pytest.mark.parametrize("num_shots", [0, 1])
def test_imported_texts_are_seen_as_the_problem_s_own(problem, num_shots):
  problem = dataclasses.replace(
    problem, prompt=PromptFormat(num_shots=num_shots), max_prompt_len=800
  )
  ids = problem.problem_ids("test", 2, 5)
  want = problem.demonstrations(ids, np.zeros(3, int))
  records = [problem.records()["test"][i] for i in ids // 3]
  steps = [tuple(record.solution.split("\n")) for record in records]
  samples = [
    process_bench.Sample(record.key, record.problem, lines, -1, True)
    for record, lines in zip(records, steps, strict=True)
  ]
  traces = [
    step_labels.Trace(record.problem, lines, (1.0,) * 3, is_whole=True)
    for record, lines in zip(records, steps, strict=True)
  ]
  targets = step_labels.to_targets(traces, problem)
  for got in (process_bench.rollout(samples, problem), targets):
    # Three steps; the problem has room for one more.
    np.testing.assert_array_equal(got.prefix_len, want.prefix_len[:, :4])
    width = got.tokens.shape[1]
    np.testing.assert_array_equal(got.tokens, want.tokens[:, :width])
    assert not want.tokens[:, width:].any()
    assert (got.tokens[:, 0] == problem.vocabulary.bos_id).all()
  rows = step_labels_trl.rows(targets, problem)
  assert [(row["prompt"], tuple(row["completions"])) for row in rows] == [
    (record.problem, lines)
    for record, lines in zip(records, steps, strict=True)
  ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alike(Sums):
  """All problems have one key, and one text if asked for."""

  same_text: bool = False

  def records(self):
    return {
      split: [
        record._replace(
          key="a", problem="same" if self.same_text else record.problem
        )
        for record in records
      ]
      for split, records in super().records().items()
    }


def test_problems_with_one_key_are_refused(problem):
  settings = vars(problem) | {"max_prompt_len": 400}
  fields = {field.name for field in dataclasses.fields(problem)}
  settings = {name: settings[name] for name in fields}
  with pytest.raises(ValueError, match=r"two problems have the key 'a': 'What"):
    Alike(**settings).split_size("test")
  # One problem that comes again is one.
  assert Alike(**settings, same_text=True).split_size("test") == 7


def test_too_few_steps_for_the_data_are_refused(problem):
  # Solutions have 3 lines.
  assert dataclasses.replace(problem, max_steps=3).split_size("train") == 18
  with pytest.raises(ValueError, match=r"max_steps is 2 .* have 3 steps"):
    dataclasses.replace(problem, max_steps=2).split_size("train")


class WithoutBegin(SentencePieceVocabulary):
  """A vocabulary that has no `<bos>`."""

  bos_id = None


def test_a_prompt_has_a_token(problem, pieces_path):
  bare = dataclasses.replace(problem, prompt=PromptFormat("{problem}"))
  assert bare.encode_problem("") == [bare.vocabulary.bos_id]
  none = dataclasses.replace(bare, vocabulary=WithoutBegin(pieces_path))
  with pytest.raises(ValueError, match="prompt '' has no token"):
    none.encode_problem("")


def test_examples_resume_and_shard(problem):
  def rows(*args, **kwargs):
    found = problem.examples(*args, **kwargs)
    return [(i, p.tolist(), a.tolist()) for i, p, a in found]

  want = rows("train")
  assert [row[0] for row in want] == problem.problem_ids(
    "train", 0, 18
  ).tolist()
  assert rows("train", 7, 11) == want[7:11]
  for start in (0, 5):
    for host in range(3):
      assert rows("train", start, 18, host=host, num_hosts=3) == [
        want[i] for i in range(start, 18) if i % 3 == host
      ]
  assert problem.vocabulary.decode(want[6][2]) == "16"


def test_long_prompts_of_the_test_split(problem):
  long = dataclasses.replace(problem, long_test=(2,))
  with pytest.raises(ValueError, match=r"the prompt of test/2 has \d+ tokens"):
    long.split_size("test")
  cut = dataclasses.replace(long, cut_prompts=True)
  ids = cut.problem_ids("test", 0, 7)
  prompts, lengths = cut.prompts(ids), cut.prompt_lengths(ids)
  assert (lengths == 96).tolist() == [i == 2 for i in range(7)]
  assert prompts[2, 0] == cut.vocabulary.bos_id
  text = cut.vocabulary.decode(prompts[2])
  assert text.endswith("really?\n\nSolution:\n") and "What is" not in text
  # The others are as they were.
  others = [0, 1, 3, 4, 5, 6]
  np.testing.assert_array_equal(prompts[others], problem.prompts(ids[others]))


def test_packing_takes_a_split_once_and_fits(problem):
  with pytest.raises(
    ValueError, match="row_length is 100, expected at least 160"
  ):
    Demonstrations(problem, num_rows=2, row_length=100)
  short = dataclasses.replace(problem, max_length=100)
  batches = Demonstrations(short, num_rows=2, row_length=100)
  assert batches.num_problems == 18
  position, texts = 0, []
  while position < 18:
    batch, position = batches(position)
    assert batch.tokens.shape == (2, 100)
    for row, segments, learnt in zip(
      batch.tokens, batch.segments, batch.loss_mask, strict=True
    ):
      for segment in range(1, segments.max() + 1):
        ids = row[(segments == segment) & learnt]
        texts.append(short.vocabulary.decode(ids))
  kept = [i for i in range(20) if i not in (3, 4)]
  want = [f"It is {i}+{i}.\nThat is\n$\\boxed{{{2 * i}}}$." for i in kept]
  # A few of the next pass may stand in the last batch.
  assert sorted(texts[:18]) == sorted(want) or set(texts) == set(want)


def small_network(problem):
  return TransformerConfig(
    vocab_size=problem.vocabulary.vocab_size + 8,
    num_layers=2,
    width=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=8,
    max_length=96 + 72,
  )


class Solving(ProblemPolicy):
  """A policy that solves every other problem."""

  def sample(self, params, key, problem_id, first_sample=0, *, num_samples=1):
    prompts = self.problem.prompts(problem_id)
    prompt_len = self.problem.prompt_lengths(problem_id)
    np.testing.assert_array_equal(prompts[:, 0], self.problem.vocabulary.bos_id)
    texts = [
      self.problem.vocabulary.decode(row[:length])
      for row, length in zip(prompts, prompt_len, strict=True)
    ]
    assert all(text.endswith("?\n\nSolution:\n") for text in texts)
    ids = np.repeat(problem_id, num_samples)
    responses = self.problem.responses(ids, ids)
    odd = ids // 3 % 2 == 1
    responses[odd] = self.problem.responses(ids * 0 + 2, ids)[odd]
    return self.problem.rollout(ids, responses, np.zeros_like(ids))


def test_policies_are_evaluated_on_it(problem):
  ids = problem.problem_ids("test", 0, 7)
  found = evaluate(
    Solving(language_model(small_network(problem), problem), problem),
    {},
    jax.random.key(0),
    problem,
    ids,
    num_samples=2,
    rows_per_call=6,
  )
  assert found.num_correct.tolist() == [2, 0, 2, 0, 2, 0, 2]


def test_a_language_model_has_its_sizes(problem):
  config = small_network(problem)
  policy = language_model(config, problem)
  # The longest solution and an eighth more: 64 + 8.
  assert (policy.max_new_tokens, policy.max_steps) == (72, 4)
  with pytest.raises(ValueError, match="prompts have 97 tokens"):
    language_model(config, dataclasses.replace(problem, max_prompt_len=97))


@pytest.mark.parametrize(
  ("ask", "match"),
  [
    (lambda p: p.problem_ids("dev", 0, 1), "split is 'dev'"),
    (lambda p: p.problem_ids("test", 0, 8), "stop are 0 and 8, .* <= 7"),
    (lambda p: p.problem_ids("test", 3, 3), "expected 0 <= start < stop"),
    (lambda p: p.examples("test", 0, 8), "stop are 0 and 8"),
    (lambda p: p.examples("test", host=1), "host is 1"),
    (lambda p: p.prompts(np.array([3 * 20])), "problem_id is 60"),
    (lambda p: p.prompts(np.array([-1])), "problem_id is -1"),
    (
      lambda p: dataclasses.replace(p, max_response_len=8).responses(
        p.problem_ids("test", 0, 1), np.zeros(1, int)
      ),
      "a solution has .* max_response_len = 8",
    ),
    (lambda p: dataclasses.replace(p, max_steps=0), "max_steps is 0"),
    (lambda p: dataclasses.replace(p, max_length=0), "demonstration_len is 0"),
  ],
)
def test_bad_requests(problem, ask, match):
  with pytest.raises(ValueError, match=match):
    ask(problem)


def test_an_empty_split_is_refused(problem):
  class Empty(Sums):
    def records(self):
      return dict.fromkeys(SPLITS, ())

  with pytest.raises(ValueError, match="split 'test' is empty"):
    Empty(vocabulary=problem.vocabulary).split_size("test")
