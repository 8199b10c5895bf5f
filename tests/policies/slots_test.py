import jax
import numpy as np
import pytest

from pav_jax.models import transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies import slots, suffixes

CONFIG = TransformerConfig(
  vocab_size=5,
  width=8,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_width=8,
)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("num_slots", [1, 7, 64, 256])
@pytest.mark.parametrize("rows", [1, 3, 8, 64, 144, 1000])
@pytest.mark.parametrize("texts", [1, 2, 8, 63, 500])
def test_plans_have_room_for_all_texts_in_few_slots(
  texts, rows, num_slots, shards
):
  plan = slots.plan(texts, rows, num_slots=num_slots, shards=shards)
  room = plan.chunks * plan.lanes * plan.texts
  # Less than a lane for each shard, and a text for each lane, stay empty.
  assert texts <= room
  assert room - texts < plan.chunks * (plan.lanes + shards * plan.texts)
  assert plan.lanes % shards == 0
  assert (
    plan.lanes * plan.slots <= max(num_slots, 1) + (shards - 1) * plan.slots
  )
  assert 1 <= plan.slots <= plan.texts * rows
  if texts * rows > num_slots >= 64:
    # Rows for which there are no slots wait, and most slots exist.
    assert plan.texts * rows >= min(2 * plan.slots, plan.texts * rows)


def test_plans_of_the_benchmark():
  # A lane for each seed or problem, and rows enough for four or five turns.
  assert slots.plan(16, 64, num_slots=256) == slots.Plan(1, 16, 1, 16)
  assert slots.plan(8, 144, num_slots=256) == slots.Plan(1, 8, 1, 29)
  # 8 samples are few: 4 problems in each lane.
  assert slots.plan(64, 8, num_slots=256) == slots.Plan(1, 16, 4, 8)
  # All rows fit.
  assert slots.plan(4, 3, num_slots=256) == slots.Plan(1, 4, 1, 3)
  # 1000 problems do not: 8 times 32 lanes of 4.
  assert slots.plan(1000, 8, num_slots=256) == slots.Plan(8, 32, 4, 8)


def test_turns_are_counted_as_the_loop_takes_them():
  # Rows of 0 to 6 tokens, by their limits: an end token is never drawn.
  limits = np.random.default_rng(0).integers(0, 7, size=(5, 3)).astype(np.int32)
  params = transformer.init(CONFIG, jax.random.key(0))
  run = jax.jit(
    suffixes.decode_suffixes,
    static_argnums=0,
    static_argnames=(
      *("max_new_tokens", "end_token", "temperature", "top_k", "top_p"),
      "num_slots",
    ),
  )
  for num_slots in (2, 4, 15):
    *_, counts, decodes = run(
      CONFIG,
      params,
      jax.random.split(jax.random.key(1), (5, 3)),
      np.zeros((5, 4), np.int32),
      np.full((5, 3), 2, np.int32),
      2 + limits,
      max_new_tokens=8,
      end_token=-1,
      temperature=1.0,
      top_k=None,
      top_p=1.0,
      num_slots=num_slots,
    )
    np.testing.assert_array_equal(counts, limits)
    plan = slots.plan(5, 3, num_slots=num_slots)
    assert slots.num_decodes(plan, limits) == decodes


def test_turns_by_hand():
  # Two slots; rows need 4, 1, 2, 0, 3 turns after their first tokens. The
  # second slot takes 1, 2 and, in time 3, 3: until 6.
  plan = slots.Plan(chunks=1, lanes=1, texts=1, slots=2)
  assert slots.num_decodes(plan, np.array([[5, 2, 3, 1, 4]])) == 6
  # In two chunks of a lane with a text each, one after the other.
  plan = slots.Plan(chunks=2, lanes=1, texts=1, slots=2)
  assert slots.num_decodes(plan, np.array([[5, 2], [3, 3]])) == 4 + 2
