"""What the rehearsal begins with: files of MATH, a vocabulary, a checkpoint."""

import io
import json
import pathlib
import random
from collections.abc import Sequence

SUBJECTS = ("algebra", "prealgebra")
NAMES = [
  "Ada",
  "Ben",
  "Cleo",
  "Dan",
  "Eva",
  "Finn",
  "Gil",
  "Hana",
  "Ian",
  "Jo",
  "Kim",
  "Lou",
  "Mia",
  "Ned",
  "Olga",
]
PLACES = [
  "board",
  "wall",
  "card",
  "tree",
  "door",
  "box",
  "cup",
  "flag",
  "ship",
  "train",
]
COLOURS = ["red", "blue", "green", "black", "white", "pink", "brown", "grey"]


def make_inputs(
  out: pathlib.Path, *, train: int = 240, test: int = 30, **changes: int
) -> None:
  """Writes `{out}/math`, `{out}/tokenizer.model`, `{out}/gemma`, `{out}/tfds`.

  Half of the test problems are on the list of those that are tested on.

  Args:
    out: a directory.
    train: problems.
    test: problems.
    **changes: of the network "tiny".
  """
  texts = make_math(out / "math", train=train, test=test)
  make_vocabulary(out / "tokenizer.model", texts)
  make_checkpoint(out / "gemma", **changes)
  make_problem(out).records()


def make_math(directory: pathlib.Path, *, train: int, test: int) -> list[str]:
  """Writes files in the layout of the published archive; gives their texts."""
  draw = random.Random(0)
  texts, listed, seen = [], [], set()
  while len(texts) < 2 * (train + test):
    number = draw.randrange(10, 100)
    name, place, colour = map(draw.choice, (NAMES, PLACES, COLOURS))
    if (number, name, place, colour) in seen:
      continue
    seen.add((number, name, place, colour))
    problem = (
      f"{name} sees ${number}$ on a {colour} {place}. What is its last digit?"
    )
    solution = (
      f"The number is ${number}$.\n"
      rf"Its last digit is $\boxed{{{number % 10}}}$."
    )
    index = len(texts) // 2
    part = "train" if index < train else "test"
    subject = SUBJECTS[index % len(SUBJECTS)]
    file = directory / part / subject / f"{index}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    fields = {"level": "Level 1", "type": subject.capitalize()}
    file.write_text(
      json.dumps({"problem": problem, "solution": solution, **fields})
    )
    texts += [problem, solution]
    if part == "test" and index % 4 < 2:
      key = f"test/{subject}/{index}.json"
      listed.append({"unique_id": key, "answer": str(number % 10)})
  (directory / "test.jsonl").write_text(
    "".join(json.dumps(entry) + "\n" for entry in listed)
  )
  return texts


def make_vocabulary(path: pathlib.Path, texts: Sequence[str]) -> None:
  """Trains a SentencePiece model laid out as Gemma's, with 384 pieces."""
  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([x for text in texts for x in text.split("\n")]),
    model_writer=model,
    minloglevel=3,
    num_threads=1,
    vocab_size=384,
    model_type="bpe",
    byte_fallback=True,
    split_digits=True,
    pad_id=0,
    eos_id=1,
    bos_id=2,
    unk_id=3,
    user_defined_symbols=["\n", "\n\n"],
    normalization_rule_name="identity",
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
  )
  path.write_bytes(model.getvalue())


def make_checkpoint(directory: pathlib.Path, **changes: int) -> None:
  """A random network; as published ones, it says nothing of the vocabulary."""
  import jax

  from pav_jax.models import hf, transformer
  from pav_jax.models.presets import preset

  config = preset("tiny", vocab_size=384, **changes)
  params = jax.jit(lambda: transformer.init(config, jax.random.key(0)))()
  hf.save(directory, config, params)


def make_problem(out: pathlib.Path):
  """The problem, whose data set is written when it is first asked for."""
  from pav_jax.problems.mathematics import MATH
  from pav_jax.problems.pieces import SentencePieceVocabulary

  return MATH(
    vocabulary=SentencePieceVocabulary(str(out / "tokenizer.model")),
    manual_dir=str(out / "math"),
    data_dir=str(out / "tfds"),
  )
