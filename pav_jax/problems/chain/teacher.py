"""The responses of the noisy teacher of chains."""

import numpy as np
from jaxtyping import Float, Int

from pav_jax.problems.chain import operations
from pav_jax.problems.chain.reading import STEP, Contents, Notation


def responses(
  notation: Notation,
  contents: Contents,
  uniform: Float[np.ndarray, "B S 2"],
  *,
  rho: float,
  max_no_progress: int,
  max_response_len: int,
) -> Int[np.ndarray, "B R"]:
  """Writes one response to each problem.

  Args:
    notation: of the problem.
    contents: of the problems.
    uniform: for each of at most S steps, in [0, 1): whether it restates the
      current value, and which result is written.
    rho: probability that a step is a restatement.
    max_no_progress: most restatements in a response.
    max_response_len: R; room for S steps.

  Returns:
    Token ids, padded: int32[B, R].
  """
  start, kind, operand = contents
  horizon = kind.shape[-1]
  other = np.roll(operand, -1, -1)
  rows = np.arange(len(start))
  vocabulary = notation.vocabulary
  tokens = np.full((len(start), max_response_len), vocabulary.pad_id, np.int32)
  newline = vocabulary.symbol_id("\n")
  value, done = start.copy(), np.zeros_like(start)
  restated, length = done.copy(), done.copy()
  for step in range(uniform.shape[1]):
    busy = done < horizon
    restates = busy & (uniform[:, step, 0] < rho)
    restates &= restated < max_no_progress
    row = rows[restates]
    tokens[row, length[row]] = vocabulary.first_integer + value[row]
    tokens[row, length[row] + 1] = newline
    restated[row] += 1
    length[row] += 2

    row = rows[busy & ~restates]
    h = done[row]
    now = (value[row], kind[row, h], operand[row, h])
    results, probs = operations.teacher(
      notation.operations, notation.modulus, *now, other[row, h]
    )
    chosen = np.sum(uniform[row, step, 1:] >= np.cumsum(probs, -1)[:, :-1], -1)
    # Rounding of the sum must not choose a mistake that cannot happen.
    chosen = np.where(probs[np.arange(len(row)), chosen] > 0, chosen, 0)
    result = results[np.arange(len(row)), chosen]
    at = length[row, None] + np.arange(STEP)
    tokens[row[:, None], at] = notation.line(*now, result)
    value[row] = result
    done[row] += 1
    length[row] += STEP
  tokens[rows, length - 1] = vocabulary.eos_id
  return tokens
