"""Policies, verifiers and search in words, beside what they are in tokens."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pav_jax
from pav_jax.api import answers, beside
from pav_jax.api.text_verifier import PublicVerifier
from pav_jax.models import hf, transformer
from pav_jax.models import value_network as network
from pav_jax.models.tokenizer import Tokenizer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.for_problem import export, language_model
from pav_jax.problems import text_format
from pav_jax.problems.base import PromptFrame
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.pieces import SentencePieceVocabulary
from pav_jax.problems.prompt_format import PromptFormat, Record, chat_prompt
from pav_jax.problems.vocabulary import Vocabulary
from pav_jax.provers import base, public, verifier
from pav_jax.provers.public.reencoding import PublicReader
from pav_jax.provers.public.step_joining import SeparatedSteps
from pav_jax.testing.byte_tokens import ByteTokens

TOKENIZERS = pathlib.Path(__file__).parents[1] / "data" / "tokenizers"
QUESTIONS = ["1+2+3", "4+4+1"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums(DataProblem):
  """A few sums in each split."""

  def records(self):
    return {
      split: [
        Record(f"{split}{i}", f"{i}+1+1", f"{i}+1={i + 1}\n={i + 2}", f"{i}")
        for i in range(4)
      ]
      for split in ("train", "validation", "test")
    }


PROBLEM = Sums(
  vocabulary=Vocabulary(num_integers=20),
  prompt=PromptFormat(question="{problem}:"),
  max_prompt_len=8,
  max_response_len=11,
  max_steps=4,
)
CONFIG = TransformerConfig(
  vocab_size=PROBLEM.vocabulary.vocab_size,
  width=16,
  num_layers=1,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  max_length=64,
)
MODEL = language_model(CONFIG, PROBLEM, max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A policy and a verifier, as runs write them."""
  home = tmp_path_factory.mktemp("checkpoints")
  params = transformer.init(CONFIG, jax.random.key(0))
  export(home / "policy", MODEL, params, PROBLEM)
  config = VerifierConfig(CONFIG)
  head = {"kernel": jax.random.normal(jax.random.key(1), (16,))}
  values = network.init(config, params, jax.random.key(2))
  values |= {"head": head | {"bias": jnp.float32(0.1)}}
  verifier.save(
    home / "verifier",
    config,
    values,
    identity=text_format.saved(PROBLEM, max_response_len=11, max_steps=4),
    vocabulary=PROBLEM.vocabulary,
  )
  public.export(
    home / "classifier",
    config,
    values,
    identity=hf.read_side(home / "verifier"),
  )
  return home


@pytest.fixture(scope="module")
def policy(folder):
  return pav_jax.load_policy(folder / "policy")


@pytest.fixture(scope="module")
def judge(folder):
  return pav_jax.load_verifier(folder / "verifier")


@pytest.fixture(scope="module")
def drawn(policy):
  return policy.sample(QUESTIONS, n=4, seed=3)


def test_a_policy_is_what_was_exported(policy):
  assert dataclasses.replace(policy.model, layout=None) == MODEL
  assert "16, Vocabulary, responses up to 12 tokens in 4 steps" in repr(policy)
  assert policy.text_format.encode_problem("1+2+3") == PROBLEM.encode_problem(
    "1+2+3"
  )


@pytest.fixture(scope="module")
def rollout(policy):
  """What the model samples for the same questions."""
  prompts = [PROBLEM.encode_problem(x) for x in QUESTIONS]
  return policy.model.sample(
    policy.params,
    jax.random.key(3),
    np.array(prompts, np.int32),
    np.array([6, 6], np.int32),
    np.array([answers.address(x) for x in QUESTIONS], np.int32),
    num_samples=4,
  )


def test_answers_are_the_samples_of_the_model(policy, drawn, rollout):
  ended = np.asarray(policy.model.has_ended(rollout))
  flat = [answer for of_one in drawn for answer in of_one]
  assert [answer.ended for answer in flat] == ended.tolist()
  for row, answer in enumerate(flat):
    length = int(rollout.prefix_len[row, -1])
    response = np.asarray(rollout.tokens[row, 6:length])
    kept = response[:-1] if answer.ended else response
    assert answer.text == PROBLEM.vocabulary.decode(kept)
    assert answer.num_tokens == len(response)
    assert answer.question == QUESTIONS[row // 4]
    np.testing.assert_allclose(answer.logp, rollout.logp[row].sum(), rtol=1e-5)


def test_an_answer_does_not_depend_on_other_questions(policy, drawn):
  def texts(of):
    return [answer.text for answer in of]

  alone = policy.sample(QUESTIONS[1], n=4, seed=3)
  assert texts(alone) == texts(drawn[1])
  assert texts(policy.sample(QUESTIONS[1], n=4, seed=4)) != texts(alone)


def test_values_are_the_verifiers_own(judge, drawn, rollout):
  q = np.asarray(base.values(judge.network, None, rollout))
  for row, scored in enumerate(judge.score(drawn[0])):
    values = [scored.start, *(step.value for step in scored.steps)]
    np.testing.assert_allclose(values, q[row, : len(values)], atol=1e-6)
    assert scored.value == pytest.approx(float(q[row, -1]), abs=1e-6)
    progress = [step.progress for step in scored.steps]
    np.testing.assert_allclose(scored.start + sum(progress), scored.value)
    assert scored.answer is drawn[0][row]
    assert scored.text == drawn[0][row].text


def test_words_that_are_brought_have_the_values_of_their_tokens(judge):
  ids = PROBLEM.problem_ids("test", 1, 2)
  rollout = PROBLEM.demonstrations(ids, np.zeros_like(ids))
  (q,) = np.asarray(base.values(judge.network, None, rollout))
  texts = ["1+1=2", "=3"]
  for response in (texts, "\n".join(texts), ["1+1=2\n", "=3"]):
    scored = judge.score(("1+1+1", response))
    assert [step.text for step in scored.steps] == texts
    values = [scored.start, *(step.value for step in scored.steps)]
    np.testing.assert_allclose(values, q[:3], atol=1e-6)
  # Of a beginning the last step is ended by the delimiter.
  begun = judge.score(("1+1+1", texts[:1]), is_whole=False)
  np.testing.assert_allclose(begun.value, q[1], atol=1e-6)


def test_a_search_reports_the_values_that_its_verifier_gives(policy, judge):
  question, sizes = QUESTIONS[0], {"beams": 2, "candidates": 2}
  found = pav_jax.beam_search(policy, judge, question, **sizes)
  (again,) = pav_jax.beam_search(policy, judge, [question], **sizes)
  assert again.text == found.text and found.best.question == question
  assert len(found.beams) == 2 and found.best in found.beams
  assert found.num_tokens >= found.answer.num_tokens
  read = judge.score(found.answer)
  # A response that was cut off is worth 0 to a search.
  last = None if found.answer.ended else -1
  want = [step.value for step in read.steps][:last]
  values = [step.value for step in found.best.steps][:last]
  np.testing.assert_allclose(values, want, atol=1e-5)
  assert "the best of 2 beams" in str(found)


def test_what_is_exported_for_others_is_read_too(folder, judge, drawn):
  classifier = pav_jax.load_verifier(folder / "classifier")
  np.testing.assert_allclose(
    classifier.score(drawn[0][0]).value,
    judge.score(drawn[0][0]).value,
    atol=1e-5,
  )


def test_it_is_shown_in_text_and_escaped_in_html(capsys):
  scored = answers.scored("1<2?", ["a\nb", "<b>"], [0.25, 0.5, 0.0])
  scored.show()
  assert capsys.readouterr().out.splitlines() == [
    "1<2?",
    "",
    "value  progress",
    " 0.25            (the question)",
    " 0.50     +0.25  a",
    "                 b",
    " 0.00     -0.50  <b>",
  ]
  page = scored._repr_html_()
  assert "1&lt;2?" in page and "&lt;b&gt;" in page and page.count("<b>") == 1
  assert repr(scored) == "Scored('a\\nb\\n<b>', 2 steps, value 0.00)"


def test_a_checkpoint_that_says_nothing_asks_for_what_it_lacks(
  folder, tmp_path
):
  hf.save(
    tmp_path / "bare", CONFIG, transformer.init(CONFIG, jax.random.key(0))
  )
  with pytest.raises(ValueError, match="expected tokenizer= a path"):
    pav_jax.load_policy(tmp_path / "bare")
  with pytest.raises(ValueError, match="expected prompt= a text with"):
    pav_jax.load_policy(tmp_path / "bare", tokenizer=PROBLEM.vocabulary)
  with pytest.raises(ValueError, match=r"prompt is 'Q', expected \{problem\}"):
    beside.read_format(tmp_path, None, tokenizer=ByteTokens(), prompt="Q")
  given = pav_jax.load_policy(
    tmp_path / "bare", tokenizer=PROBLEM.vocabulary, prompt="{problem}:"
  )
  assert given.text_format.frame == PromptFrame("", ":")
  other = dataclasses.replace(PROBLEM.vocabulary, symbols="\n+=:")
  with pytest.raises(ValueError, match="that of the model's"):
    pav_jax.load_policy(folder / "policy", tokenizer=other)


def test_bad_answers_are_named(judge, policy):
  with pytest.raises(ValueError, match="expected an Answer or"):
    judge.score("1+1")
  with pytest.raises(ValueError, match="has no steps"):
    judge.score(("1+1", "\n"))
  with pytest.raises(ValueError, match="expected at most 64"):
    judge.score(("1+1", ["1+1"] * 40))
  with pytest.raises(ValueError, match="no token at character"):
    judge.score(("1+1", ["one"]))
  with pytest.raises(ValueError, match="the list is empty"):
    policy.sample([])
  other = dataclasses.replace(policy.text_format, delimiter="=")
  with pytest.raises(ValueError, match="reads other tokens or steps"):
    judge.prover(other)


@pytest.mark.parametrize("shots", [0, 2])
def test_a_prompt_is_that_of_the_problem(shots):
  prompt = PromptFormat(num_shots=shots)
  problem = Sums(vocabulary=ByteTokens(bos_id=2), prompt=prompt)
  side = text_format.saved(problem, max_response_len=9, max_steps=3)
  side = json.loads(json.dumps(side))
  made = text_format.read(side, problem.vocabulary)
  assert made.encode_problem("{a}") == problem.encode_problem("{a}")
  assert made.decode_problem(made.encode_problem("{a}")) == "{a}"
  assert made.frame.stop == prompt.stop
  assert (made.max_response_len, made.max_steps) == (9, 3)
  if shots:
    assert made.frame.before.count("Problem:") == 3
  with pytest.raises(ValueError, match="json lacks 'text'"):
    text_format.read({"fingerprint": made.fingerprint}, problem.vocabulary)


def test_after_shots_an_answer_ends_where_another_problem_begins():
  tokens = ByteTokens()
  made = text_format.TextFormat(
    vocabulary=tokens, frame=PromptFrame("Q: ", "\nA: ", "\n\nQ: ")
  )
  prompt = made.encode_problem("x")
  text = "one\ntwo\n\nQ: y\nA: "
  ids = [*prompt, *tokens.encode(text)]
  ends = [len(prompt), *(len(prompt) + i for i in (4, 8, 9, 14, len(text)))]
  rollout = pav_jax.Rollout(
    tokens=np.array([ids]),
    logp=np.full((1, len(ids)), -1.0),
    prefix_len=np.array([ends]),
    outcome=np.zeros(1),
    problem_id=np.zeros(1, int),
    sample_id=np.zeros(1, int),
  )
  (answer,) = answers.answers(made, rollout, np.array([False]), ["x"])
  assert answer.text == "one\ntwo" and answer.ended
  assert answer.steps == ("one", "two")


@pytest.mark.parametrize("kind", ["byte_level", "pieces", "vocabulary"])
def test_a_tokenizer_is_found_again(kind, tmp_path):
  if kind == "byte_level":
    pytest.importorskip("tokenizers")
    vocabulary = Tokenizer(str(TOKENIZERS / kind))
  elif kind == "pieces":
    pytest.importorskip("sentencepiece")
    vocabulary = _pieces(tmp_path)
  else:
    vocabulary = Vocabulary(num_integers=7, symbols="\n=")
  problem = Sums(vocabulary=vocabulary)
  if kind == "byte_level":
    problem = Sums(vocabulary=vocabulary, prompt=chat_prompt(vocabulary))
  side = text_format.saved(problem, max_response_len=9, max_steps=3)
  (tmp_path / "beside").mkdir()
  text_format.vocabularies.write_files(vocabulary, tmp_path / "beside")
  made = beside.read_format(tmp_path / "beside", json.loads(json.dumps(side)))
  assert made.fingerprint == problem.fingerprint
  assert made.frame == problem.prompt_frame
  if kind != "vocabulary":
    # Without what we say beside it, the files are enough but for the prompt.
    other = beside.read_format(tmp_path / "beside", None, prompt="{problem}")
    assert other.vocabulary.encode("a b") == vocabulary.encode("a b")


def _pieces(folder):
  import sentencepiece

  (folder / "text").write_text("Problem: a b\nc d\n" * 50)
  sentencepiece.SentencePieceTrainer.train(
    input=str(folder / "text"),
    model_prefix=str(folder / "m"),
    vocab_size=300,
    hard_vocab_limit=False,
    byte_fallback=True,
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    normalization_rule_name="identity",
    pad_id=3,
    minloglevel=2,
  )
  return SentencePieceVocabulary(str(folder / "m.model"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts(PublicReader):
  """Scores a step by the tokens up to its mark, per cent."""

  meaning: str = "correctness"

  @property
  def networks(self):
    return ()

  def scores(self, tokens, mark, begin=None):
    return np.where(mark >= 0, (mark + 1) / 100, np.nan).astype(np.float32)


def test_a_public_model_reads_texts_as_its_authors_join_them():
  reader = Counts(params={}, joining=SeparatedSteps(), tokenizer=ByteTokens())
  judge = PublicVerifier("counts", reader, "minimum")
  first, second = judge.score([("1+1?", "ab\ncd"), ("1?", ["abc"])])
  # Marks are the newlines that follow "1+1?ab" and "cd".
  assert [step.value for step in first.steps] == pytest.approx([0.07, 0.07])
  assert first.start == 1.0 and second.value == pytest.approx(0.06)
  assert "minimum" in repr(judge)
