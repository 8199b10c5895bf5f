import numpy as np
import pytest

from pav_jax.data.mixtures import Mixture
from pav_jax.data.packing import Demonstrations
from pav_jax.problems.chain import Chain
from pav_jax.problems.data_problem import DataProblem
from pav_jax.problems.prompt_format import PromptFormat, Record
from pav_jax.problems.vocabulary import Vocabulary


class Sums(DataProblem):
  """`a+b:` for all sums of the sizes that are asked for."""

  first: int = 0

  def records(self):
    made = [
      Record(f"{self.first}/{i}", f"{self.first}+{i}", f"{self.first + i}", "")
      for i in range(40)
    ]
    return {"train": made[:30], "validation": made[30:35], "test": made[35:]}


class Tens(Sums):
  first = 10


def sums(kind=Sums):
  return kind(
    vocabulary=Vocabulary(num_integers=60),
    grader=lambda responses, answers: [True] * len(responses),
    prompt=PromptFormat(question="{problem}:"),
    max_prompt_len=4,
    max_response_len=2,
  )


ROOM = {"num_rows": 2, "row_length": 12}


def texts(batch):
  for tokens, segments in zip(batch.tokens, batch.segments, strict=True):
    for number in range(1, segments.max(initial=0) + 1):
      yield tuple(tokens[segments == number].tolist())


def take(batches, number):
  position, out = 0, []
  for _ in range(number):
    batch, position = batches(position)
    out += list(texts(batch))
  return out


def test_without_seqio_one_problem_is_read_in_its_order():
  mixture = Mixture([sums()], **ROOM, reader="python")
  want = Demonstrations(sums(), **ROOM)
  assert take(mixture, 5) == take(want, 5)


def test_without_seqio_it_is_read_all_the_same(monkeypatch):
  monkeypatch.setattr(
    "pav_jax.data.mixtures.importlib.util.find_spec", lambda _: None
  )
  assert Mixture([sums()], **ROOM).reader == "python"
  with pytest.raises(ValueError, match=r"several are mixed by seqio"):
    Mixture([sums(), sums(Tens)], **ROOM)


def test_seqio_reads_the_demonstrations_of_a_split():
  pytest.importorskip("seqio")
  mixture = Mixture([sums()], **ROOM)
  assert mixture.reader == "seqio"
  # A row holds two demonstrations of 6 tokens. Of 400 draws, nearly uniform
  # over 30, each misses one with odds of 30 · (29/30)^400 = 4e-5.
  drawn = take(mixture, 100)
  rollout = sums().demonstrations(np.arange(30) * 3, np.zeros(30, int))
  want = {
    tuple(row[: length[-1]].tolist())
    for row, length in zip(rollout.tokens, rollout.prefix_len, strict=True)
  }
  assert len(drawn) == 400 and set(drawn) == want
  # The same again from the same position, and shuffled.
  again = Mixture([sums()], **ROOM)
  batch, _ = again(3)
  assert list(texts(batch)) == drawn[12:16]
  assert drawn[:32] != take(Mixture([sums()], **ROOM, seed=1), 8)
  # Of the split that is asked for.
  held = set(take(Mixture([sums()], **ROOM, split="validation"), 20))
  assert len(held) == 5 and not held & want


def test_problems_are_mixed_at_their_rates():
  pytest.importorskip("seqio")
  mixture = Mixture([sums(), sums(Tens)], **ROOM, rates=(1, 3))
  first = Vocabulary(num_integers=60).encode("10")[0]
  drawn = [text[0] == first for text in take(mixture, 60)]
  # 240 draws at 3/4: the deviation is 6.7, and four of them 27.
  assert abs(sum(drawn) - 180) < 27


@pytest.mark.parametrize(
  ("settings", "match"),
  [
    ({"problems": []}, "0 kinds of tokens"),
    ({"problems": [Chain(), sums()]}, "2 kinds of tokens"),
    ({"rates": (1.0, 2.0)}, "a positive number for each of 1"),
    ({"rates": (0.0,)}, "a positive number for each of 1"),
    ({"row_length": 5}, "row_length is 5, expected at least 6"),
    ({"reader": "grain"}, "reader is 'grain'"),
  ],
)
def test_settings_are_checked(settings, match):
  with pytest.raises(ValueError, match=match):
    Mixture(**{"problems": [sums()]} | ROOM | settings)
