import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import gin
import pytest

from pav_jax.checks import Leaf, check_positive
from pav_jax.cli import bindings, kinds


@dataclasses.dataclass
class _Settings:
  rate: float = 1.0
  name: str = "a"

  def __post_init__(self):
    check_positive(rate=self.rate)


@gin.register("k_made")
@dataclasses.dataclass
class _Made(_Settings):
  size: int = 1


@gin.register("k_read")
def _read(workdir, *, made: _Made, sizes: Sequence[int] = (), rate: Leaf = 0):
  raise AssertionError("called")


@pytest.fixture(autouse=True)
def no_bindings():
  yield
  gin.clear_config()


def _check(text):
  gin.parse_config(f"macro_of_test/gin.macro.value = @k_read()\n{text}")
  bound = gin.get_bindings("macro_of_test/gin.macro", resolve_references=False)
  kinds.check(bindings.calls(bound["value"], ["workdir"]))


@pytest.mark.parametrize(
  ("value", "hint"),
  [
    (3, int),
    (3, float),
    (3, float | None),
    (None, int | None),
    ([1, 2], tuple[int, ...]),
    ((1, 2), Sequence[int]),
    ((1, 0.5), tuple[int, float]),
    ("sum", Literal["sum", "mean"]),
    ([(1, 2)], Sequence[tuple[int, int]]),
    (0.5, Leaf),
    ("a", int | str),
    # What says nothing of plain values.
    ("a", Any),
    (3, Callable[[int], int]),
    (True, bool | None),
    (gin.REQUIRED, int),
  ],
)
def test_what_an_annotation_allows_fits(value, hint):
  assert kinds.fits(value, hint)


@pytest.mark.parametrize(
  ("value", "hint", "words"),
  [
    ("ten", int, "a whole number"),
    (2.0, int, "a whole number"),
    (True, int, "a whole number"),
    ("1e-3", float, "a number"),
    ("x", Leaf, "a number"),
    (3, str, "text in quotes"),
    (1, bool, "True or False"),
    (None, int, "a whole number"),
    ("x", float | None, "a number or None"),
    (3, Sequence[int], "a list, each of it a whole number"),
    ("12", Sequence[int], "a list, each of it a whole number"),
    ([1, 2, "3"], tuple[int, ...], "a list, each of it a whole number"),
    ((1,), tuple[int, float], "(a whole number, a number)"),
    ("max", Literal["sum", "mean"], "'sum' or 'mean'"),
  ],
)
def test_what_it_excludes_does_not_and_is_said_in_words(value, hint, words):
  assert not kinds.fits(value, hint)
  assert kinds.in_words(hint) == words


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("k_made.size = 'ten'", "k_made.size is 'ten', expected a whole number"),
    ("k_made.rate = %RATE\nRATE = 'x'", "RATE is 'x', expected a number"),
    ("k_made.rate = %A\nA = %B\nB = 'x'", "B is 'x', expected a number"),
    ("k_read.sizes = 3", "k_read.sizes is 3, expected a list, each of it a w"),
    ("k_read.sizes = [1, 'b']", r"k_read.sizes is \[1, 'b'\]"),
    ("k_read.rate = 'abc'", "k_read.rate is 'abc', expected a number"),
    ("in/k_made.name = 3", "k_made.name is 3, expected text in quotes"),
    # What the class itself refuses.
    ("k_made.rate = -1.0", "rate is -1.0, expected a positive number"),
    ("k_made.rate = %RATE\nRATE = -1", "rate is -1, expected a positive"),
  ],
)
def test_a_bound_value_is_named_with_what_is_expected(text, message):
  with pytest.raises(ValueError, match=message):
    _check(f"k_read.made = @in/k_made()\n{text}")


def test_what_experiments_bind_is_accepted_without_a_call():
  _check("""
    k_read.made = @k_made()
    k_made.rate = 0.5
    k_read.sizes = %SIZES
    SIZES = [1, 2]
  """)


def test_settings_with_texts_are_not_made():
  # They may read files, which takes long.
  _check("k_read.made = @k_made()\nk_made.rate = -1.0\nk_made.name = 'DIR'")
