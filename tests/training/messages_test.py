"""What comes out of a message is what went in, and nothing else does."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pav_jax.rollout import Rollout
from pav_jax.training import messages


def assert_same(came, sent):
  assert jax.tree.structure(came) == jax.tree.structure(sent)
  for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(sent), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize(
  "value",
  [
    None,
    [True, 1, 0.1, -0.0, math.inf, None],
    {"a": (1, [2]), "": ()},
    {3: {}, 1: 5},
    {"x": np.float64(1 / 3), "y": np.array(7, np.int64)},
    np.array([[0.1, np.nan], [-0.0, 1e300]]),
    np.array([1.5, -2], ml_dtypes.bfloat16),
    np.zeros((3, 0), np.int32),
    np.arange(6).reshape(2, 3).T,
    Rollout(
      *(np.arange(n, dtype=np.float32).reshape(2, -1) for n in (6, 6, 4)),
      *(np.arange(2) for _ in range(3)),
    ),
  ],
)
def test_values_come_out_as_they_went_in(value):
  came = messages.decode(messages.encode([value, "next"]))
  assert type(came[0]) is type(value)
  assert_same(came, [value, "next"])


def test_large_numbers_and_texts_come_out_as_they_went_in():
  value = [2**70, "é\n", {"a": "", 3: None}]
  assert messages.decode(messages.encode(value)) == value


def test_arrays_of_devices_arrive_on_the_host():
  came = messages.decode(messages.encode(jnp.arange(3)))
  assert type(came) is np.ndarray and came.tolist() == [0, 1, 2]
  came[0] = 5  # it is the receiver's


@pytest.mark.parametrize(
  "value, name",
  [
    (object(), "object"),
    ({1, 2}, "set"),
    (print, "builtin"),
    ([b"a"], "bytes"),
  ],
)
def test_what_cannot_be_sent_is_named(value, name):
  with pytest.raises(ValueError, match=f"a {name}.* cannot be sent"):
    messages.encode(value)
  with pytest.raises(ValueError, match="array of object"):
    messages.encode(np.array([value, None], object))


def test_only_dataclasses_that_the_receiver_has_are_made():
  """A message names a class and never code: `os.system` is none."""

  @dataclasses.dataclass
  class Local:
    a: int

  with pytest.raises(ValueError, match="Local, which this one lacks"):
    messages.decode(messages.encode(Local(1)))
  text = b'["dataclass", "os", "system", [["command", "true"]]]'
  data = len(text).to_bytes(8, "little") + text
  with pytest.raises(ValueError, match=r"os\.system, which this one lacks"):
    messages.decode(data)


def test_a_message_that_was_cut_or_prolonged_is_refused():
  data = messages.encode([np.arange(3), 1])
  for wrong in (data[:-1], data + b"\0"):
    with pytest.raises(ValueError):
      messages.decode(wrong)
