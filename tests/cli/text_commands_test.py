"""Commands in words: which loader is asked for what, and what is printed."""

import io
import json
import pathlib

import numpy as np
import pytest

from pav_jax import models
from pav_jax.api import answers, text_policy, text_search, text_verifier
from pav_jax.cli import pav, score_answers
from pav_jax.models import hf

DECODERS = pathlib.Path(__file__).parents[1] / "data" / "decoders"


class Policy:
  """Answers a question with its length, n times."""

  def sample(self, questions, n, seed):
    return [
      [
        answers.Answer(
          x, f"{len(x)}\n{i}", (str(len(x)), str(i)), (2, 1), i > 0, -1.0
        )
        for i in range(seed, seed + n)
      ]
      for x in questions
    ]


class Judge:
  """Values count up by a tenth; of beginnings they end at 0."""

  def score(self, asked, is_whole):
    out = []
    for question, steps in asked:
      steps = steps.split("\n") if isinstance(steps, str) else steps
      q = [0.1 * (h + 1) for h in range(len(steps) + 1)]
      out.append(
        answers.scored(question, steps, q if is_whole else [*q[:-1], 0.0])
      )
    return out


@pytest.fixture
def loaded(monkeypatch):
  """What the loaders were asked for."""
  asked = []
  for module, name, made in (
    (text_policy, "load_policy", Policy()),
    (text_verifier, "load_verifier", Judge()),
  ):

    def load(path, made=made, name=name, **options):
      asked.append((name, path, {k: v for k, v in options.items() if v}))
      return made

    monkeypatch.setattr(module, name, load)
  return asked


def printed(capsys, *arguments):
  assert pav.main(list(arguments)) == 0
  return capsys.readouterr().out


def test_answers_are_printed_with_their_tokens(capsys, loaded):
  out = printed(
    capsys,
    "sample",
    "p",
    "1+1",
    "-n",
    "2",
    "--prompt",
    r"{problem}\n",
    "--dtype",
    "x",
  )
  assert out == "[3 tokens, cut off]\n3\n0\n\n[3 tokens]\n3\n1\n"
  options = {"prompt": "{problem}\n", "dtype": "x", "temperature": 1.0}
  assert loaded == [("load_policy", "p", options)]


def test_answers_as_lines_are_what_score_reads(capsys, loaded, tmp_path):
  lines = printed(capsys, "sample", "p", "1", "12", "-n", "2", "--json")
  (tmp_path / "a.jsonl").write_text(lines + "\n")
  rows = printed(capsys, "score", "v", str(tmp_path / "a.jsonl")).splitlines()
  rows = [json.loads(row) for row in rows]
  assert [row["problem"] for row in rows] == ["1", "1", "12", "12"]
  assert rows[3]["steps"] == ["2", "1"] and rows[3]["start"] == 0.1
  # The first of each was cut off.
  assert [row["values"][-1] for row in rows] == [0.0, 0.3, 0.0, 0.3]
  assert rows[0]["progress"] == [0.1, -0.2]


def test_a_response_in_one_text_is_read_from_standard_input(
  capsys, loaded, monkeypatch
):
  line = json.dumps({"problem": "1", "response": "a\nb"})
  monkeypatch.setattr("sys.stdin", io.StringIO(line))
  (row,) = printed(capsys, "score", "v", "-", "--rule", "last").splitlines()
  assert json.loads(row)["steps"] == ["a", "b"]
  assert loaded == [("load_verifier", "v", {"rule": "last"})]


def test_a_search_gets_both_and_its_numbers(capsys, loaded, monkeypatch):
  def beam_search(policy, judge, questions, **numbers):
    return [f"{x}: {numbers}" for x in questions]

  monkeypatch.setattr(text_search, "beam_search", beam_search)
  out = printed(capsys, "search", "p", "v", "a", "b", "--beams=2", "--alpha=0")
  sizes = {"beams": 2, "alpha": 0.0, "candidates": 3, "seed": 0}
  assert out == f"a: {sizes}\n\nb: {sizes}\n"
  assert [path for _, path, _ in loaded] == ["p", "v"]


@pytest.mark.parametrize(
  "line, message",
  [
    ("{", "is no line of JSON"),
    ("[1]", "expected an object with problem"),
    ('{"problem": "1"}', "expected an object with problem"),
    ('{"problem": "1", "steps": [2]}', "expected an object with problem"),
    (
      '{"problem": "1", "response": "2", "is_whole": 3}',
      "has is_whole 3, expected true or false",
    ),
    ("", "has no lines"),
  ],
)
def test_bad_lines_are_named(tmp_path, capsys, line, message):
  (tmp_path / "a.jsonl").write_text("\n" + line)
  assert pav.main(["score", "v", str(tmp_path / "a.jsonl")]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert f"a.jsonl{':2' if line else ''} " in error
  assert score_answers.main(["v", str(tmp_path / "b.jsonl")]) == 2
  assert "b.jsonl; did you mean a.jsonl?" in capsys.readouterr().err


def test_a_converted_model_is_the_same(tmp_path, capsys):
  out = printed(capsys, "convert", str(DECODERS / "llama"), str(tmp_path / "m"))
  assert out.startswith(f"wrote {tmp_path / 'm'}: llama, ")
  tokens = np.array([[1, 2, 3]])
  want = models.load(DECODERS / "llama").logits(tokens)
  np.testing.assert_array_equal(
    models.load(tmp_path / "m").logits(tokens), want
  )
  (tmp_path / "m" / "verifier.safetensors").write_text("")
  assert pav.main(["convert", str(tmp_path / "m"), str(tmp_path / "n")]) == 2
  assert "is a verifier, expected a model" in capsys.readouterr().err


def test_what_is_beside_a_policy_stays_with_it(tmp_path, capsys):
  source = tmp_path / "source"
  model = models.load(DECODERS / "llama")
  models.save(source, model, identity={"fingerprint": "f", "delimiter": "\n"})
  (source / "tokenizer.model").write_bytes(b"pieces")
  printed(capsys, "convert", str(source), str(tmp_path / "m"))
  side = hf.read_side(source)
  assert side and hf.read_side(tmp_path / "m") == side
  assert (tmp_path / "m" / "tokenizer.model").read_bytes() == b"pieces"


def test_the_newest_page_is_opened(tmp_path, capsys, monkeypatch):
  opened = []
  monkeypatch.setattr("webbrowser.open", opened.append)
  assert pav.main(["inspect", str(tmp_path)]) == 2
  assert "no inspect.html in" in capsys.readouterr().err
  (tmp_path / "verifier").mkdir()
  page = tmp_path / "verifier" / "inspect.html"
  page.write_text("")
  assert printed(capsys, "inspect", str(tmp_path), "--print") == f"{page}\n"
  assert not opened
  printed(capsys, "inspect", str(tmp_path))
  assert opened == [page.as_uri()]
