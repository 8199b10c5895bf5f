"""Tokenizers of every kind against transformers, and what steps need."""

import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from pav_jax.models import tokenizer as tokenizer_module
from pav_jax.models.tokenizer import Tokenizer
from pav_jax.problems.prompt_format import PromptFormat, chat_prompt
from pav_jax.problems.vocabulary import (
  TextTokens,
  delimiter_table,
  encode_prompt,
  fingerprint,
)

pytest.importorskip("tokenizers")

# Made by tests/data/make_tokenizers.py with transformers.
FOLDER = pathlib.Path(__file__).parents[1] / "data" / "tokenizers"
KINDS = ("byte_level", "pieces", "unigram")
CHAT = [{"role": "user", "content": " What is 2+3? "}]


def of_kind(name, **settings):
  """The Unigram tokenizer normalises, which texts of steps do not survive."""
  exact = settings.pop("exact", name == "unigram")
  return Tokenizer(str(FOLDER / name), exact=exact, **settings)


def expected(name):
  return np.load(FOLDER / name / "expected.npz")


@pytest.fixture
def copy(tmp_path):
  """Copies a tokenizer, to be changed."""

  def make(name, **settings):
    path = tmp_path / "changed"
    shutil.copytree(FOLDER / name, path)
    file = path / "tokenizer_config.json"
    content = json.loads(file.read_text()) | settings
    content = {name: x for name, x in content.items() if x is not ...}
    file.write_text(json.dumps(content))
    return path

  return make


@pytest.mark.parametrize("name", ["byte_level", "pieces"])
def test_encodings_are_those_of_transformers(name):
  tokenizer, want = of_kind(name), expected(name)
  assert len(want["texts"]) == 300
  ends = np.cumsum(want["lengths"])
  for text, ids in zip(
    want["texts"], np.split(want["ids"], ends[:-1]), strict=True
  ):
    assert tokenizer.encode(str(text)) == ids.tolist()
  assert encode_prompt(tokenizer, "x") == want["prompt"].tolist()


def test_without_normalisation_the_tokens_stay_and_texts_return():
  want = expected("unigram")
  with pytest.raises(ValueError, match=r"comes back as .*expected exact=True"):
    of_kind("unigram", exact=False)
  tokenizer = of_kind("unigram")
  # A text that begins with a space had none put before it; NFKC changes
  # nothing in ASCII.
  for text in ("a step", "then 3+4 = 7", "so  it is"):
    ids = tokenizer.encode(" " + text)
    assert tokenizer.decode(ids) == " " + text
    assert tokenizer.encode(text) != ids
  assert tokenizer.decode(tokenizer.encode("x² ½")) == "x² ½"
  assert want["ids"].max() < tokenizer.vocab_size


@pytest.mark.parametrize("name", KINDS)
def test_it_has_what_problems_need(name):
  tokenizer = of_kind(name)
  assert isinstance(tokenizer, TextTokens)
  special = {"byte_level": (420, 421, None), "pieces": (2, 1, 3)}
  # What Llama 3's post-processor puts first; Unigram's puts nothing there.
  first, end, unknown = special.get(name, (None, 1, 3))
  assert (tokenizer.bos_id, tokenizer.eos_id) == (first, end)
  if name == "byte_level":
    # Padding would have been the end token too. <|turn|> is used in chats, and
    # <|spare|> is not.
    assert tokenizer.pad_id == 423 and tokenizer.unk_id is None
  else:
    assert tokenizer.pad_id == 0
  assert unknown is None or tokenizer.token_text(unknown) == "<unk>"


@pytest.mark.parametrize("name", KINDS)
def test_texts_of_tokens_are_parts_of_the_text(name):
  tokenizer = of_kind(name)
  for text in ("Step 1: 2+3=5.\n\n so  x", "\tif a:\n", "a naïve ½"):
    ids = tokenizer.encode(text)
    if tokenizer.unk_id in ids:
      continue
    assert tokenizer.decode(ids) == text
    if text.isascii():
      assert "".join(map(tokenizer.token_text, ids)) == text
  for token in (-1, tokenizer.vocab_size):
    with pytest.raises(ValueError, match=f"token is {token}, expected an id"):
      tokenizer.token_text(token)
    with pytest.raises(ValueError, match=f"token is {token}, expected an id"):
      tokenizer.decode([token])


def test_tokens_that_hold_the_delimiter_are_all_in_the_table():
  """By the definition: each token written out by itself."""
  tokenizer = of_kind("byte_level")
  table = delimiter_table(tokenizer, "\n")
  texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
  assert table.tolist() == ["\n" in text for text in texts]
  # Two newlines are one token here, and no step.
  (double,) = tokenizer.encode("\n\n")
  assert table[double] and delimiter_table(tokenizer, "\n\n")[double]
  pieces = of_kind("pieces")
  table = delimiter_table(pieces, "\n")
  texts = [pieces.decode([i]) for i in range(pieces.vocab_size)]
  assert table.tolist() == ["\n" in text for text in texts]
  # The newline, two of them, and byte 10, which is one too.
  assert table[[4, 5, 6 + 10]].all()
  assert pieces.encode("\n\n\n") == [5, 4]


def test_partial_characters_are_written_as_bytes():
  tokenizer = of_kind("byte_level")
  ids = tokenizer.encode("😀")
  assert "".join(map(tokenizer.token_text, ids)) == r"\xf0\x9f\x98\x80"
  assert tokenizer.decode(ids) == "😀"


@pytest.mark.parametrize("number", [0, 1])
def test_chats_are_those_of_transformers(number):
  want = str(expected("byte_level")["chats"][number])
  if number == 0:
    got = of_kind("byte_level").chat(CHAT)
  else:
    messages = [
      {"role": "system", "content": ""},
      {"role": "user", "content": "a", "tools": [{"name": "<é>", "n": 1}]},
      {"role": "assistant", "content": "b\n\nc"},
    ]
    got = of_kind("byte_level").chat(messages, add_generation_prompt=False)
  assert got == want


def test_chat_templates_that_refuse_or_are_absent(copy):
  with pytest.raises(ValueError, match="cannot be rendered: no such role: b"):
    of_kind("byte_level").chat([{"role": "b", "content": ""}])
  assert not of_kind("pieces").has_chat_template
  with pytest.raises(ValueError, match="has no chat template"):
    of_kind("pieces").chat(CHAT)
  path = copy("byte_level", chat_template="{{ messages.__class__.mro() }}")
  with pytest.raises(ValueError, match=r"__class__.* is unsafe|is undefined"):
    Tokenizer(str(path)).chat(CHAT)
  # Several by name, and a file of its own, which goes first.
  named = [
    {"name": "tools", "template": "t"},
    {"name": "default", "template": "d"},
  ]
  (path / "tokenizer_config.json").write_text(
    json.dumps({"eos_token": "<|end|>", "chat_template": named})
  )
  assert Tokenizer(str(path)).chat(CHAT) == "d"
  (path / "chat_template.jinja").write_text(
    "{{ strftime_now('%Y') | int > 2000 }}"
  )
  assert Tokenizer(str(path)).chat(CHAT) == "True"
  with pytest.raises(ValueError, match="expected plain JSON"):
    Tokenizer(str(path)).chat(CHAT, other={1, 2})


def test_a_problem_in_a_chat_comes_back():
  tokenizer = of_kind("byte_level")
  form = chat_prompt(tokenizer, system="Be brief.", user="Q: {problem}")
  assert isinstance(form, PromptFormat)
  question = form.question.replace("{problem}", "2+3?")
  ids = encode_prompt(tokenizer, question)
  # It begins once, though the template writes that too.
  assert ids.count(tokenizer.bos_id) == 1 and ids[0] == tokenizer.bos_id
  assert form.problem(tokenizer.decode(ids)) == "2+3?"
  with pytest.raises(ValueError, match=r"expected {problem} in it"):
    chat_prompt(tokenizer, user="nothing")


def test_special_tokens_may_be_chosen(copy):
  tokenizer = of_kind("pieces", eos_token="\n\n", pad_token="<unk>")
  assert (tokenizer.eos_id, tokenizer.pad_id) == (5, 3)
  with pytest.raises(ValueError, match="has no token '<end>'"):
    of_kind("pieces", eos_token="<end>")
  with pytest.raises(ValueError, match="'<eos>', which ends a response"):
    of_kind("pieces", pad_token="<eos>")
  path = copy("pieces", eos_token=..., pad_token=..., add_bos_token=False)
  with pytest.raises(ValueError, match="says no eos_token"):
    Tokenizer(str(path))
  # As some checkpoints say it: by an id, or several, in config.json alone.
  (path / "config.json").write_text('{"eos_token_id": [1, 0]}')
  tokenizer = Tokenizer(str(path))
  assert (tokenizer.eos_id, tokenizer.pad_id) == (1, 0)
  assert tokenizer.bos_id is None


@pytest.mark.parametrize("name", KINDS)
def test_saved_tokenizers_are_the_same(name, tmp_path):
  tokenizer = of_kind(name, pad_token=None)
  tokenizer.save(tmp_path)
  again = Tokenizer(str(tmp_path))  # exact or not, as it was saved
  for text in expected(name)["texts"][:100]:
    assert again.encode(str(text)) == tokenizer.encode(str(text))
  assert fingerprint(again, "\n") == fingerprint(tokenizer, "\n")
  assert again.bos_id == tokenizer.bos_id
  if name == "byte_level":
    assert again.chat(CHAT) == tokenizer.chat(CHAT)


def test_it_goes_to_other_processes():
  tokenizer = of_kind("byte_level")
  _ = tokenizer.token_text(5)
  again = pickle.loads(pickle.dumps(tokenizer))
  assert again == tokenizer and hash(again) == hash(tokenizer)
  assert again.encode("a b") == tokenizer.encode("a b")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "tokenizer.json cannot be read as JSON"),
    ("[]", r"tokenizer.json holds \[\], expected named fields"),
    ("{}", "has no model, expected one"),
    ('{"model": {"type": "Odd"}}', "cannot be read"),
  ],
)
def test_damaged_files_are_named(copy, text, message):
  path = copy("pieces")
  (path / "tokenizer.json").write_text(text)
  with pytest.raises(ValueError, match=message):
    Tokenizer(str(path))


def test_a_folder_without_tokenizer_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"tokenizer.json cannot be read"):
    tokenizer_module.read(tmp_path)
