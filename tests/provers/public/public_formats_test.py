import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from pav_jax.models import hf, transformer
from pav_jax.provers import public
from pav_jax.provers.public.step_joining import ChatSteps, SeparatedSteps

# Made by tests/data/make_prm_golden.py with transformers and PyTorch.
GOLDEN = pathlib.Path(__file__).parents[2] / "data" / "prms"
TOKENS = {"good": 7, "bad": 9}
OPTIONS = {
  "token_classification": {},
  "qwen_prm": {},
  "plus_minus": TOKENS,
  "assistant_plus": TOKENS,
  "v_head": {},
}


def expected(name):
  with np.load(GOLDEN / name / "expected.npz") as content:
    return dict(content)


def check(reader, name):
  """Scores as the reference has them, which span far more than the error."""
  want = expected(name)
  scores = reader.scores(want["tokens"], want["mark"])
  assert scores.dtype == np.float32 and np.nanstd(want["score"]) > 0.1
  np.testing.assert_allclose(scores, want["score"], atol=1e-5)


@pytest.fixture
def copy(tmp_path):
  """A copy of a checkpoint whose tensors and fields are edited."""

  def edit(name, rename=lambda x: x, drop=(), add=None, **fields):
    path = tmp_path / "copy"
    path.mkdir()
    tensors = safetensors.numpy.load_file(GOLDEN / name / hf.SINGLE)
    tensors = {
      rename(key): x for key, x in tensors.items() if key not in drop
    } | (add or {})
    safetensors.numpy.save_file(tensors, path / hf.SINGLE)
    config = json.loads((GOLDEN / name / hf.CONFIG).read_text()) | fields
    (path / hf.CONFIG).write_text(json.dumps(config))
    return path

  return edit


@pytest.mark.parametrize("name", public.FORMATS)
def test_scores_are_those_of_the_reference(name):
  reader = public.load(GOLDEN / name, format=name, **OPTIONS[name])
  check(reader, name)


@pytest.mark.parametrize("name", ["token_classification", "qwen_prm", "v_head"])
def test_a_head_tells_the_format(name):
  reader = public.load(GOLDEN / name)
  assert reader.joining == public.FORMATS[name].joining
  check(reader, name)


def test_a_causal_model_does_not():
  with pytest.raises(ValueError, match=r"expected format to be one of token_c"):
    public.load(GOLDEN / "plus_minus")
  with pytest.raises(ValueError, match="expected one of token_classification"):
    public.load(GOLDEN / "plus_minus", format="shepherd")


def test_a_scorer_of_whole_texts_is_no_reader_of_steps(copy):
  path = copy(
    "token_classification", architectures=["Qwen2ForSequenceClassification"]
  )
  with pytest.raises(ValueError, match="cannot be told by its architectures"):
    public.load(path)


def test_an_output_layer_beside_a_head_is_not_read(copy):
  # As TRL's value-head models have it: wrapped, with the language model whole.
  name, rows = "v_head", np.zeros((56, 24), np.float32)
  path = copy(
    name,
    lambda x: x if x.startswith("v_head.") else f"pretrained_model.{x}",
    add={"pretrained_model.lm_head.weight": rows},
  )
  check(public.load(path), name)


def test_a_decoder_may_have_been_saved_by_itself(copy):
  path = copy("qwen_prm", lambda x: x.removeprefix("model."))
  check(public.load(path), "qwen_prm")


def test_files_may_be_several(tmp_path):
  name, path = "token_classification", tmp_path / "sharded"
  path.mkdir()
  shutil.copyfile(GOLDEN / name / hf.CONFIG, path / hf.CONFIG)
  tensors = safetensors.numpy.load_file(GOLDEN / name / hf.SINGLE)
  weight_map = {}
  for number, key in enumerate(sorted(tensors)):
    weight_map[key] = f"model-{number % 3}.safetensors"
  for file in set(weight_map.values()):
    safetensors.numpy.save_file(
      {key: tensors[key] for key in tensors if weight_map[key] == file},
      path / file,
    )
  (path / hf.INDEX).write_text(json.dumps({"weight_map": weight_map}))
  check(public.load(path), name)


def test_one_label_is_a_sigmoid_and_a_bias_may_be_absent(copy):
  # Two logits 0 and z are the log-odds z: a softmax and a sigmoid agree.
  tensors = safetensors.numpy.load_file(
    GOLDEN / "token_classification" / hf.SINGLE
  )
  weight, bias = tensors["score.weight"], tensors["score.bias"]
  path = copy(
    "token_classification",
    drop=("score.bias",),
    add={"score.weight": np.diff(weight, axis=0)},
  )
  want = expected("token_classification")
  odds = want["score"] / (1 - want["score"]) / np.exp(bias[1] - bias[0])
  scores = public.load(path).scores(want["tokens"], want["mark"])
  np.testing.assert_allclose(scores, odds / (1 + odds), atol=1e-5)


@pytest.mark.parametrize(
  "shape, message",
  [((3, 24), "one or two outputs"), ((2, 23), "the decoder's 24 features")],
)
def test_heads_of_other_shapes_are_refused(copy, shape, message):
  path = copy(
    "token_classification",
    drop=("score.bias",),
    add={"score.weight": np.zeros(shape, np.float32)},
  )
  with pytest.raises(ValueError, match=message):
    public.load(path)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"good": 7}, "bad is None, expected the id of a token in 0 … 55"),
    ({"good": 56, "bad": 9}, "good is 56, expected the id"),
    ({"good": 7, "bad": 7}, "both 7, expected two tokens"),
  ],
)
def test_two_tokens_are_needed(options, message):
  with pytest.raises(ValueError, match=message):
    public.load(GOLDEN / "plus_minus", "plus_minus", **options)
  with pytest.raises(ValueError, match="whose head has no use for tokens"):
    public.load(GOLDEN / "v_head", good=7)


def test_sequences_out_of_range_are_refused():
  reader = public.load(GOLDEN / "assistant_plus", "assistant_plus", **TOKENS)
  tokens = np.full((1, 4), 5)
  for bad, mark, message in (
    (tokens, [[4]], "marks span 4 … 4, expected 1 … 3"),
    (tokens, [[0]], "marks span 0 … 0, expected 1"),
    (tokens + 51, [[1]], "tokens span 56 … 56, expected 0 … 55"),
    (np.full((1, 129), 5), [[1]], "have 129 tokens, expected 1 … 128"),
  ):
    with pytest.raises(ValueError, match=message):
      reader.scores(bad, np.array(mark))


def test_what_follows_a_mark_changes_nothing():
  reader = public.load(GOLDEN / "qwen_prm")
  want = expected("qwen_prm")
  tokens = want["tokens"].copy()
  tokens[:, 21:] = 3
  scores = reader.scores(tokens, want["mark"][:, :2])
  np.testing.assert_allclose(scores, want["score"][:, :2], atol=1e-5)


def test_meaning_and_joining_are_kept_with_the_reader():
  reader = public.load(GOLDEN / "qwen_prm")
  assert reader.meaning == "correctness" and reader.joining == ChatSteps()
  other = public.load(
    GOLDEN / "v_head", meaning="correctness", joining=SeparatedSteps("\n\n")
  )
  assert other.meaning == "correctness"
  assert other.joining == SeparatedSteps("\n\n")
  with pytest.raises(ValueError, match="meaning is 'log_ratio', expected"):
    public.load(GOLDEN / "v_head", meaning="log_ratio")


def test_two_causal_models_make_a_log_ratio(copy):
  # Of a model to itself it is 0, and of a copy whose output layer is twice as
  # steep what two passes of transformers' would give: here by hand.
  path = GOLDEN / "assistant_plus"
  tensors = safetensors.numpy.load_file(path / hf.SINGLE)
  steep = copy(
    "assistant_plus", add={"lm_head.weight": tensors["lm_head.weight"] * 2}
  )
  want = expected("assistant_plus")
  begin = np.array([3, 2, 4])
  zero = public.implicit(path, path, 0.05)
  np.testing.assert_allclose(
    zero.scores(want["tokens"], want["mark"], begin),
    np.where(want["mark"] >= 0, 0, np.nan),
    atol=1e-6,
  )
  reader = public.implicit(steep, path, 0.5)
  scores = reader.scores(want["tokens"], want["mark"], begin)
  logp = log_probabilities(reader, want["tokens"])
  for row, (marks, first) in enumerate(zip(want["mark"], begin, strict=True)):
    for h, mark in enumerate(marks[marks >= 0]):
      assert scores[row, h] == pytest.approx(
        0.5 * logp[row, first : mark + 1].sum(), abs=1e-4
      )
      first = mark + 1
  assert (np.isnan(scores) == (want["mark"] < 0)).all()
  assert reader.meaning == "log_ratio"


def log_probabilities(reader, tokens):
  """log π − log π_ref of each token, with every logit at once."""

  def logp(name, config):
    logits = transformer.apply(
      config, reader.params[name], jnp.asarray(tokens, jnp.int32)
    )
    logits = np.asarray(logits, np.float64)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    of_next = np.take_along_axis(logits[:, :-1], tokens[:, 1:, None], -1)
    return np.pad(of_next[..., 0], ((0, 0), (1, 0)))

  names = ("policy", "reference")
  policy, reference = map(logp, names, reader.config)
  return policy - reference


def test_log_ratios_need_to_know_where_a_response_begins():
  path = GOLDEN / "assistant_plus"
  reader = public.implicit(path, path, 1.0)
  tokens, mark = np.full((1, 8), 5), np.array([[2, 5]])
  for begin, message in (
    (None, "begin is None"),
    (np.array([4]), "1 <= begin and marks that rise"),
    (np.array([0]), "1 <= begin"),
  ):
    with pytest.raises(ValueError, match=message):
      reader.scores(tokens, mark, begin)
  with pytest.raises(ValueError, match=r"beta is 0\.0, expected a number"):
    public.implicit(path, path, 0.0)
