import pytest

from pav_jax.reporting import progress


def test_lines_say_iteration_accuracy_rate_and_time_left(capsys, monkeypatch):
  clock = iter([0.0, 0.5, 2.5])
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  bar = progress.Progress(100, done=20, label="run", seconds_between_lines=1.0)
  with bar:
    bar.update(30, {"pav": 0.0})  # at 0.5 s: the rate counts from here
    bar.update(50, {"pav": 0.5})  # at 2.5 s: 20 iterations in 2 s
  printed = capsys.readouterr().out
  assert "run: compiling" in printed
  assert "iteration 50/100 · accuracy pav 0.500 · 10 it/s · 5 s left" in printed


@pytest.mark.parametrize(
  ("seconds", "pace", "left"),
  [
    (0.001, "1000 it/s", "0 s"),
    (0.4, "2.5 it/s", "40 s"),
    (1.0, "1 s/it", "100 s"),
    (6.72, "6.7 s/it", "11 min"),
    (90.0, "90 s/it", "2.5 h"),
  ],
)
def test_a_pace_and_what_is_left_of_100_iterations(seconds, pace, left):
  assert progress.pace(seconds) == pace
  assert progress.duration(100 * seconds) == left


def test_many_arms_are_told_by_their_best_and_worst(capsys):
  arms = {f"γ={i}": i / 10 for i in range(6)}
  with progress.Progress(1, label="run") as bar:
    bar.update(1, arms)
  printed = capsys.readouterr().out
  assert "best γ=5 0.500 · worst γ=0 0.000" in printed
  assert "γ=3" not in printed


@pytest.mark.parametrize("text", ["[bold]", "a [0–1] b"])
def test_text_in_brackets_is_printed_as_it_is(capsys, text):
  progress.say(text)
  assert capsys.readouterr().out == text + "\n"
  progress.table("t", ["arm", "x"], [["a", text]])
  assert text in capsys.readouterr().out
