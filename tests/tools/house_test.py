"""What the design says must not be, is not; and the checks would see it."""

import pytest

from tools import house

PACKAGE = house.files()


def test_gin_is_known_at_the_door_alone():
  assert not house.imports_gin(PACKAGE)


def test_chain_is_known_in_its_room_alone():
  assert not house.says_chain(PACKAGE)


def test_nobody_asks_a_problem_what_it_is():
  assert not [place for place in house.asks(PACKAGE) if "problem" in place]


def test_no_file_is_named_as_another_or_a_standard_module():
  # The two of reinforcement learning become one.
  assert house.poor_stems(PACKAGE) in (
    [],
    ["rl: pav_jax/runs/rl.py, pav_jax/training/rl.py"],
  )


@pytest.fixture(name="made")
def made_fixture(tmp_path):
  def make(**texts):
    for name, text in texts.items():
      path = tmp_path / "pav_jax" / (name.replace("__", "/") + ".py")
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
    return house.files(tmp_path)

  return make


def test_each_check_sees_what_it_is_for(made):
  of = made(
    cli__door="import gin\n",
    runs__inside="def f():\n  from gin import config\n",
    runs__near="import gin_like\nx = 'Chained'\n",
    models__theirs="import optax\ny = optax.chain(itertools.chain(z))\n",
    problems__chain__room="a = 'chain'\n",
    provers__base="hasattr(prover, 'x')\n",
    search__asking=(
      "hasattr(self.prover, 'x')\n"
      "getattr(q_problem, 'y', 1)\n"
      "isinstance(policy, list)\n"
      "getattr(problem, name)\n"
      "getattr(settings, 'name')\n"
    ),
    runs__queue="",
    problems__theirs="",
    steps__steps="",
    steps____init__="",
    reporting__rows="found = 1\nknown = found\n# Likewise, of which\n",
  )
  assert house.imports_gin(of) == ["pav_jax/runs/inside.py"]
  assert house.says_chain(of) == ["pav_jax/runs/near.py"]
  assert [x.partition(" ")[2] for x in house.asks(of)] == [
    "hasattr(self.prover, 'x')",
    "getattr(q_problem, 'y', 1)",
    "isinstance(policy, list)",
  ]
  assert house.poor_stems(of) == [
    "queue: pav_jax/runs/queue.py",
    "theirs: pav_jax/models/theirs.py, pav_jax/problems/theirs.py",
  ]
  words = house.odd_words(of)
  assert words["likewise"] == words["of which"] == 1
  assert words["variable found"] == words["variable known"] == 1
  assert words["variable own"] == 0
  assert house.sizes(of)["search"] == (5, 1)
  assert house.longest_functions(of) == ["2 pav_jax/runs/inside.py:1 f"]


def test_it_prints(capsys):
  house.main()
  printed = capsys.readouterr().out
  lines = sum(number for number, _ in house.sizes(PACKAGE).values())
  assert f"{lines:,} lines" in printed
  assert "0 files outside cli that import gin" in printed
