"""How learning rates change over a run."""

import dataclasses
import math

import optax


@dataclasses.dataclass(frozen=True)
class LearningRateSchedule:
  """Factor of learning rates: linear warm-up, then a cosine to `final`.

  Attributes:
    warmup: share of all iterations, in [0, 1).
    final: factor at the end, in [0, 1]; 1 for no decay.

  Raises:
    ValueError: if a number is out of range.
  """

  warmup: float = 0.1
  final: float = 0.0

  def __post_init__(self):
    if not 0 <= self.warmup < 1 or not 0 <= self.final <= 1:
      raise ValueError(
        f"warmup and final are {self.warmup} and {self.final}, expected "
        "warmup in [0, 1) and final in [0, 1]"
      )

  @property
  def is_constant(self) -> bool:
    """Whether the factor is 1 throughout, however long a run is."""
    return not self.warmup and self.final == 1

  def __call__(self, iteration: int, num_iterations: int) -> float:
    """The factor of an iteration, counted from 0; > 0 but at the very end."""
    if self.is_constant:
      return 1.0
    warmup = math.ceil(self.warmup * num_iterations)
    schedule = optax.warmup_cosine_decay_schedule(
      init_value=0.0 if warmup else 1.0,
      peak_value=1.0,
      warmup_steps=warmup,
      decay_steps=max(num_iterations, warmup + 1),
      end_value=self.final,
    )
    return float(schedule(iteration + bool(warmup)))
