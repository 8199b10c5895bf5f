import pytest

from pav_jax.problems.chain import Chain
from pav_jax.problems.chain.operations import OPERATIONS, Operation, harder


def test_odds_of_mistakes_are_multiplied():
  # 0.2 is 1 in 4; four times as likely is 1 in 1, a half. What never fails, or
  # always does, keeps doing so.
  operations = tuple(
    Operation(symbol, error=error, weight=2)
    for symbol, error in (("+", 0.2), ("-", 0.0), ("*", 1.0))
  )
  found = harder(4, operations)
  assert [o.error for o in found] == pytest.approx([0.5, 0.0, 1.0])
  assert [(o.symbol, o.weight) for o in found] == [("+", 2), ("-", 2), ("*", 2)]
  assert [o.error for o in harder(1)] == pytest.approx(
    [o.error for o in OPERATIONS]
  )
  # There and back again.
  back = harder(0.25, found)
  assert [o.error for o in back] == pytest.approx([0.2, 0.0, 1.0])
  Chain(operations=found)
  with pytest.raises(ValueError, match="odds is 0"):
    harder(0)
