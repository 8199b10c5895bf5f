"""Checks of arguments, and casts, that pure functions share."""

import numbers
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool

# A scalar in a pytree that users build: a float or float32[] there, and
# whatever leaf a transformation stores in its place.
Leaf = typing.Annotated[typing.Any, float]


def concrete_value(x: ArrayLike) -> np.ndarray | None:
  """Returns the value of `x` where tracing knows it, and None elsewhere."""
  try:
    return np.asarray(x)
  except jax.errors.TracerArrayConversionError:
    return None


def check_shape(
  name: str, x: ArrayLike, expected: tuple[int | None, ...], meaning: str
) -> None:
  """Raises ValueError unless `x` has the expected shape.

  Args:
    name: what the caller calls `x`.
    x: any array.
    expected: the shape, with None for an axis of any size.
    meaning: what the axes are, such as "[..., H]", for the message.
  """
  shape = np.shape(x)
  if len(shape) != len(expected) or any(
    want is not None and got != want
    for got, want in zip(shape, expected, strict=True)
  ):
    sizes = ", ".join("any" if n is None else str(n) for n in expected)
    raise ValueError(
      f"{name} has shape {shape}; expected ({sizes}), that is {meaning}"
    )


def check_probabilities(
  name: str,
  x: ArrayLike,
  *,
  where: ArrayLike = True,
  allow_nan: bool = False,
) -> None:
  """Raises ValueError for a number that is known while tracing and no chance.

  Args:
    name: what the caller calls `x`.
    x: numbers that should be in [0, 1], but for a few units of rounding.
    where: which of them count; nothing is checked if this is traced.
    allow_nan: whether NaN may stand for what is not known.
  """
  known, counts = concrete_value(x), concrete_value(where)
  if known is None or counts is None:
    return
  known = np.asarray(known, np.float64)
  rounding = 4 * float(jnp.finfo(float_dtype(x)).eps)
  good = (known >= -rounding) & (known <= 1 + rounding)
  bad = ~(good | (np.isnan(known) & allow_nan)) & counts
  if bad.any():
    raise ValueError(
      f"{name} holds {known[bad][0]}; expected probabilities, from 0 to 1"
    )


def as_mask(name: str, x: ArrayLike) -> Bool[Array, "..."]:
  """`x` as booleans; 0 and 1 will do.

  Raises:
    ValueError: it holds floats, or other integers that are known while tracing.
  """
  dtype = jnp.result_type(jnp.asarray(x))
  known = concrete_value(x)
  if not (jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_):
    raise ValueError(f"{name} has dtype {dtype}; expected booleans")
  if known is not None and not ((known == 0) | (known == 1)).all():
    wrong = known[(known != 0) & (known != 1)].ravel()[0]
    raise ValueError(f"{name} holds {wrong}; expected booleans, or 0 and 1")
  return jnp.asarray(x) != 0


def widen(x: ArrayLike) -> Array:
  """Casts to the dtype of arithmetic: float32, or float64 if `x` has it."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def float_dtype(*xs: ArrayLike) -> DTypeLike:
  """The dtype of a result computed from `xs`: theirs, float32 if integers."""
  dtype = jnp.result_type(
    *(
      x if np.isscalar(x) or hasattr(x, "dtype") else jnp.asarray(x) for x in xs
    )
  )
  return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32


def check_finite(what: str, tree: typing.Any) -> None:
  """Raises FloatingPointError, naming the leaf, if one is not finite.

  Every process calls it if arrays are split over several.

  Args:
    what: the tree is, such as "parameters after step 3".
    tree: of arrays; those that are no floating-point numbers are passed over.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    # Each is waited for: devices of a CPU that have dozens of programs before
    # them, in which they meet, may wait for each other for ever.
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not bool(
      _is_finite(leaf)
    ):
      raise FloatingPointError(
        f"{what} are not finite: {jax.tree_util.keystr(path)}, "
        f"{_dtype(leaf)}{list(np.shape(leaf))}, has infinities or NaN"
      )


def _dtype(x: ArrayLike) -> np.dtype:
  return x.dtype if isinstance(x, jax.Array) else np.asarray(x).dtype


def _is_finite(x: ArrayLike) -> ArrayLike:
  if not isinstance(x, jax.Array):
    return np.isfinite(x).all()
  if x.is_fully_addressable:
    return _all_finite(x)
  if x.is_fully_replicated:
    return _all_finite(x.addressable_data(0))
  spec = jax.sharding.PartitionSpec()
  whole = jax.sharding.NamedSharding(x.sharding.mesh, spec)
  return jax.jit(_all_finite, out_shardings=whole)(x)


@jax.jit
def _all_finite(x: Array) -> Array:
  return jnp.isfinite(x).all()


def check_positive(**values: typing.Any) -> None:
  """Raises ValueError for a number that is not positive and finite.

  What is no Python number, as leaves of a pytree may be, is passed over.
  """
  for name, number in values.items():
    if isinstance(number, int | float) and not 0 < number < float("inf"):
      raise ValueError(f"{name} is {number}, expected a positive number")


def check_least(least: int, /, **values: typing.Any) -> None:
  """Raises ValueError for a number below `least`, and for what is no number.

  Args:
    least: that is accepted.
    **values: by the names that the message has.
  """
  for name, value in values.items():
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or value < least:
      raise ValueError(f"{name} is {value!r}, expected >= {least}")


# Steps as models write them, and what tokenizers have been seen to change.
_STEPS = (
  "It is 5.",
  " indented",
  "a  b ",
  r"$\frac{1}{2}$ × 3",
  "x² ≥ ½",
  "\tif a:",
  "###",
)


def check_texts_return(
  encode: Callable[[str], list[int]],
  decode: Callable[[list[int]], str],
  *,
  unknown: int | None = None,
  delimiter: str = "\n",
) -> None:
  """Checks that texts of steps come back from their tokens as they were.

  Steps and delimiters are tokenised by themselves and put together. Texts with
  characters that the tokenizer has no token for are passed over.

  Args:
    encode: a text to token ids.
    decode: token ids to a text.
    unknown: id of the token that stands for text without tokens; None if there
      is none.
    delimiter: ends a step.

  Raises:
    ValueError: with the text and what came back.
  """
  for step in _STEPS:
    ids = [*encode(step), *encode(delimiter)]
    if unknown in ids:
      continue
    back = decode(ids)
    if back != step + delimiter:
      raise ValueError(f"{step + delimiter!r} comes back as {back!r}")
