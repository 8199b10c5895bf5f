"""One HTML page that shows traces, every step coloured by value or advantage.

The page is a single file that works offline: no server, no other file, nothing
loaded. Its text is data, never markup: it is embedded as JSON, enters the page
as text nodes, and a content security policy allows the page's own script and
style alone, by their hashes.
"""

import base64
import hashlib
import html
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from pav_jax import advantages, checks, files
from pav_jax.rollout import Rollout

_TEMPLATE = pathlib.Path(__file__).with_name("trace_page.html")
_ROUNDING = 1e-6  # what a value may be outside [0, 1]


def write_page(
  path: str | os.PathLike,
  rollout: Rollout,
  token_text: Callable[[int], str],
  values: Mapping[str, Float[ArrayLike, "B P"]],
  *,
  title: str,
  exact: Float[ArrayLike, "B P"] | None = None,
  pit: Int[ArrayLike, "B"] | None = None,
  high: float | int = 0.5,
  zero: float | int = 0.0,
  threshold: float | int = 0.5,
) -> pathlib.Path:
  """Writes the page.

  Each trace is a row of coloured cells, one for the bare problem and one per
  step; it opens to the text of its steps, their values and advantages, and
  their tokens. A few hundred traces are no strain.

  Args:
    path: of the file, which is written at once or not at all.
    rollout: the traces.
    token_text: the text of a token's id.
    values: verifier or prover -> values of the prefixes in [0, 1], NaN where
      unknown. The first one is shown at first.
    title: of the page.
    exact: exact values, or Monte-Carlo ones; shown below the others.
    pit: 0-based index of the step where each trace goes wrong, −1 for none, if
      it is known, as from ProcessBench's labels. Otherwise
      `advantages.first_pit` finds it, for each array of values by itself.
    high: of `first_pit`, in (0, 1].
    zero: values up to this one count as 0 there; a verifier's never are 0.
    threshold: value at the end from which on a trace is predicted to be
      correct.

  Returns:
    The path.

  Raises:
    ValueError: there is no trace or no array of values; shapes do not match; a
      value is outside [0, 1], an outcome neither 0 nor 1, `pit` no step, or a
      token's text no string; two arrays have one name.
  """
  rollout = jax.tree.map(np.asarray, rollout)
  arrays = {name: np.asarray(q, np.float64) for name, q in values.items()}
  if not arrays:
    raise ValueError("values are empty, expected at least one array")
  if exact is not None:
    if "exact" in arrays:
      raise ValueError("values hold 'exact', which names the exact ones")
    arrays["exact"] = np.asarray(exact, np.float64)
  _check(rollout, arrays, pit)
  arrays = {name: np.clip(q, 0, 1) for name, q in arrays.items()}
  if pit is None:
    pits = [_first_pit(q, rollout, high, zero) for q in arrays.values()]
  else:
    pits = [np.asarray(pit)] * len(arrays)
  data = {
    "title": title,
    "names": list(arrays),
    "exact": None if exact is None else len(arrays) - 1,
    "threshold": threshold,
    "num_steps": rollout.num_steps,
    "tokens": _texts(rollout, token_text),
    "traces": _traces(rollout, list(arrays.values()), pits),
  }
  path = pathlib.Path(path)
  files.write_text(path, _page(title, data))
  return path


def _check(rollout: Rollout, arrays: dict, pit) -> None:
  checks.check_shape("tokens", rollout.tokens, (None, None), "[B, T]")
  rows, num_tokens = rollout.tokens.shape
  if not rows:
    raise ValueError("the rollout has no trace, expected at least one")
  checks.check_shape("logp", rollout.logp, (rows, num_tokens), "[B, T]")
  checks.check_shape("prefix_len", rollout.prefix_len, (rows, None), "[B, P]")
  for name in ("outcome", "problem_id", "sample_id"):
    checks.check_shape(name, getattr(rollout, name), (rows,), "[B]")
  ends = np.concatenate(
    [
      np.zeros((rows, 1), int),
      rollout.prefix_len,
      np.full((rows, 1), num_tokens),
    ],
    -1,
  )
  if (np.diff(ends) < 0).any():
    raise ValueError(
      f"prefix_len is not within 0 … {num_tokens} and non-decreasing"
    )
  if not np.isin(rollout.outcome, (0, 1)).all():
    raise ValueError(f"outcome is {rollout.outcome}, expected 0 and 1 only")
  for name, q in arrays.items():
    checks.check_shape(
      f"values[{name!r}]", q, rollout.prefix_len.shape, "[B, P]"
    )
    outside = q[(q < -_ROUNDING) | (q > 1 + _ROUNDING)]
    if outside.size:
      raise ValueError(
        f"values[{name!r}] hold {outside[0]}, expected numbers in [0, 1] or NaN"
      )
  if pit is not None:
    checks.check_shape("pit", pit, (rows,), "[B]")
    pit = np.asarray(pit)
    bad = pit[(pit < -1) | (pit >= rollout.num_steps)]
    if bad.size:
      raise ValueError(
        f"pit holds {bad[0]}, expected -1 … {rollout.num_steps - 1}"
      )


def _first_pit(q, rollout: Rollout, high, zero) -> np.ndarray:
  # No value that counts as more than 0 may become 0 in float32.
  least = np.finfo(np.float32).tiny
  q = np.where(q <= zero, 0.0, np.maximum(q, least)).astype(np.float32)
  return np.asarray(advantages.first_pit(q, rollout.outcome, high=high))


def _texts(
  rollout: Rollout, token_text: Callable[[int], str]
) -> dict[str, str]:
  """The texts of all tokens that occur."""
  position = np.arange(rollout.num_tokens)
  used = position < rollout.prefix_len[:, -1:]
  texts = {}
  for token in np.unique(rollout.tokens[used]).tolist():
    text = token_text(token)
    if not isinstance(text, str):
      raise ValueError(f"token_text({token}) is {text!r}, expected a string")
    texts[str(token)] = text
  return texts


def _traces(
  rollout: Rollout, arrays: list[np.ndarray], pits: list[np.ndarray]
) -> list[dict]:
  sampled = bool(rollout.logp.any())
  traces = []
  for row, length in enumerate(rollout.prefix_len[:, -1].tolist()):
    logp = rollout.logp[row, :length].tolist()
    traces.append(
      {
        "problem_id": int(rollout.problem_id[row]),
        "sample_id": int(rollout.sample_id[row]),
        "outcome": int(rollout.outcome[row]),
        "prefix_len": rollout.prefix_len[row].tolist(),
        "tokens": rollout.tokens[row, :length].tolist(),
        "logp": [_number(x, 3) for x in logp] if sampled else None,
        "values": [[_number(x, 6) for x in q[row].tolist()] for q in arrays],
        "pits": [int(pit[row]) for pit in pits],
      }
    )
  return traces


def _number(x: float, digits: int) -> float | None:
  """Rounded to significant digits; null for what is not finite."""
  return float(f"{x:.{digits}g}") if math.isfinite(x) else None


def _page(title: str, data: dict) -> str:
  """The template with its gaps filled."""
  template = _TEMPLATE.read_text(encoding="utf-8")
  # In ASCII, so that half a character, as the token of some bytes may be, can
  # be written; and without any character that could end the element.
  encoded = json.dumps(data, allow_nan=False, separators=(",", ":"))
  for character in "<>&":
    encoded = encoded.replace(character, f"\\u{ord(character):04x}")
  (style,) = re.findall("<style>(.*?)</style>", template, re.DOTALL)
  (script,) = re.findall("<script>(.*?)</script>", template, re.DOTALL)
  parts = {
    "policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    f"style-src {_hash(style)}; script-src {_hash(script)}",
    "title": html.escape(title).encode("ascii", "xmlcharrefreplace").decode(),
    "data": encoded,
  }
  return re.sub(r"\{\{(\w+)\}\}", lambda gap: parts[gap[1]], template)


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"
