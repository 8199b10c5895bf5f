"""Which rows are decoded together, and when they take each other's places.

A batch's rows end at different times. So they do not each have a place in the
batch: they wait in queues for slots, of which there are few, and a slot whose
row has ended goes on with the next one.

A lane is a queue and its slots. All rows of a text are in one lane, whose slots
read the caches of the lane's texts in one product; where texts have few rows, a
lane has several, so that its queue is longer than its slots are many.
"""

import dataclasses
import math

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Int

# A queue of so many rows for each slot keeps slots busy; a longer one hardly
# more. Texts that share a lane cost products with keys that are not seen.
WAVES = 4
MIN_ROWS = 32
MAX_TEXTS = 8


@dataclasses.dataclass(frozen=True)
class Plan:
  """Sizes; `chunks · lanes · texts` is at least the number of texts.

  Attributes:
    chunks: which are decoded one after the other.
    lanes: of a chunk.
    texts: of a lane.
    slots: of a lane.
  """

  chunks: int
  lanes: int
  texts: int
  slots: int


def plan(
  num_texts: int, rows_per_text: int, *, num_slots: int, shards: int = 1
) -> Plan:
  """Sizes that use up to about `num_slots` slots.

  Args:
    num_texts: that rows continue.
    rows_per_text: how many continue each.
    num_slots: how many rows may be decoded at once.
    shards: devices that share the lanes, whose number they divide.
  """
  if num_texts * rows_per_text <= num_slots:
    lanes, texts, slots = num_texts, 1, rows_per_text
  else:
    texts = min(-(-MIN_ROWS // rows_per_text), MAX_TEXTS)
    rows = texts * rows_per_text
    slots = -(-rows // WAVES)
    lanes = num_slots // min(slots, MIN_ROWS // WAVES)
    lanes = min(-(-num_texts // texts), max(lanes, 1))
    slots = min(slots, max(num_slots // lanes, 1))
    slots = -(-rows // -(-rows // slots))
  chunks = -(-num_texts // (lanes * texts))
  lanes = -(-num_texts // (chunks * texts))
  return Plan(chunks, math.ceil(lanes / shards) * shards, texts, slots)


def num_decodes(plan: Plan, counts: Int[ArrayLike, "G R"]) -> int:
  """How many times a plan's slots add a token each.

  Args:
    plan: the sizes.
    counts: tokens of the R rows of each of G texts. A row's first comes with
      its prefix and needs no slot.
  """
  counts = np.asarray(counts)
  room = plan.chunks * plan.lanes * plan.texts - len(counts)
  waiting = np.pad(np.maximum(counts - 1, 0), ((0, room), (0, 0)))
  total = 0
  for chunk in waiting.reshape(plan.chunks, plan.lanes, -1):
    longest = 0
    for queue in chunk:
      free_at = np.zeros(plan.slots, int)
      for length in queue[queue > 0]:
        free_at[np.argmin(free_at)] += length
      longest = max(longest, free_at.max())
    total += longest
  return int(total)
