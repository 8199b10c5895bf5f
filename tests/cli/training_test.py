"""From a file of questions to a policy and a verifier, in one call."""

import json
import pathlib

import jax
import pytest

import pav_jax
from pav_jax.cli import train_on_questions, training
from pav_jax.models import transformer
from pav_jax.models.tokenizer import Tokenizer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.for_problem import export, language_model
from pav_jax.problems.base import SPLITS
from pav_jax.problems.json_lines import JsonLines
from pav_jax.problems.prompt_format import chat_prompt
from tools.walk import SETTINGS, SIZES

TOKENIZER = Tokenizer(
  str(pathlib.Path(__file__).parents[1] / "data" / "tokenizers" / "byte_level")
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Sums, and an untrained model with a tokenizer and a chat template."""
  home = tmp_path_factory.mktemp("questions")
  lines = [
    {
      "problem": f"{i}+1",
      "solution": f"{i}+1={i + 1}",
      "answer": f"{i + 1}",
      "split": ("train", "train", "validation", "test")[i % 4],
    }
    for i in range(32)
  ]
  path = home / "sums.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)))
  config = TransformerConfig(
    vocab_size=TOKENIZER.vocab_size,
    width=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_width=16,
    max_length=256,
  )
  problem = JsonLines(
    path=str(path),
    vocabulary=TOKENIZER,
    prompt=chat_prompt(TOKENIZER),
    max_prompt_len=96,
    max_response_len=24,
  )
  model = language_model(config, problem)
  params = transformer.init(config, jax.random.key(0))
  export(home / "model", model, params, problem)
  return path, home / "model"


def test_a_file_of_questions_becomes_a_policy_and_a_verifier(files, tmp_path):
  path, model = files
  bindings = [
    f"{part}/Part.more={[*SETTINGS, *settings]!r}"
    for part, settings in SIZES.items()
  ]
  trained = pav_jax.train(
    path, workdir=tmp_path / "w", checkpoint=model, bindings=bindings
  )
  policy = pav_jax.load_policy(trained.policy)
  verifier = pav_jax.load_verifier(trained.verifier)
  answers = policy.sample("3+1", n=2)
  assert len(verifier.score(answers)) == 2
  # Text is read as well, behind a chat whose messages end as responses do.
  text = verifier.score(("3+1", "3+1=4\n4"), is_whole=False)
  assert [step.text for step in text.steps] == ["3+1=4", "4"]
  # The prompt is the chat of the model's own template, and the problem's.
  asked = TOKENIZER.decode(policy.text_format.encode_problem("3+1"))
  assert asked.endswith(
    chat_prompt(TOKENIZER, system="").prompt(training_record("3+1"))[-20:]
  )
  assert trained.page.is_file()
  check_wiring(tmp_path / "w")
  assert {"sft", "collect", "verifier", "search"} <= trained.report[
    "arms"
  ].keys()
  # What is finished is not run again.
  before = (trained.policy / "model.safetensors").stat().st_mtime_ns
  again = training.train(
    path, workdir=tmp_path / "w", checkpoint=model, bindings=bindings
  )
  assert again.policy == trained.policy
  assert (again.policy / "model.safetensors").stat().st_mtime_ns == before


def training_record(problem):
  from pav_jax.problems.prompt_format import Record

  return Record("", problem, "", "")


def check_wiring(home):
  """Each part has the policy that was trained, and problems of its split."""

  def bound(part):
    text = (home / part / "config.gin").read_text()
    return "".join(text.replace("\\\n", "").split())  # long values are wrapped

  for part in ("collect", "verifier", "search"):
    assert f"POLICY='{home}/sft/policy'" in bound(part)
  assert f"DATA='{home}/collect/targets'" in bound("verifier")
  assert f"VERIFIER='{home}/verifier/verifier'" in bound("search")
  rows = (home / "search" / "rows.jsonl").read_text().splitlines()
  searched = {json.loads(row)["problem"] % 3 for row in rows}
  assert searched == {SPLITS.index("test")}  # an id says its split


def test_parts_get_as_many_problems_as_there_are(files):
  path, model = files  # of which 16 are of train, 8 and 8 held out
  texts = "\n".join(training.settings(path, model))
  assert "NUM_PROBLEMS=14" in texts  # nine in ten of train
  assert "'NUM_PROBLEMS=8', 'TUNING_PROBLEMS=8'" in texts
  assert "num_problems=8" in texts and "test_problems=8" in texts


def test_a_file_of_a_few_lines_is_refused(tmp_path):
  line = json.dumps({"problem": "1", "solution": "2", "answer": "2"})
  text = [line[:-1] + f', "split": "{x}"}}' for x in ("train", "validation")]
  path = tmp_path / "few.jsonl"
  path.write_text("\n".join([*text, line[:-1] + ', "split": "test"}']))
  with pytest.raises(ValueError, match="1 lines for training, expected at le"):
    training.settings(path, "smollm2")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["nowhere.jsonl"], "error: nowhere.jsonl: No such file or directory"),
    (["{path}", "SEDES=1"], "SEDES; did you mean SEEDS?"),
    (["{path}", "SEEDS=x"], "SEEDS is 'x', expected a list"),
    (["{path}", "sft/Part.more=['NUM_STEPS=0.5']"], "sft: NUM_STEPS is 0.5"),
  ],
)
def test_mistakes_get_one_line(files, capsys, tmp_path, arguments, message):
  path, model = files
  status = train_on_questions.main(
    [
      *(x.replace("{path}", str(path)) for x in arguments),
      f"--workdir={tmp_path / 'w'}",
      f"--checkpoint={model}",
    ]
  )
  error = capsys.readouterr().err
  assert status == 2 and message in error and error.count("\n") == 1
