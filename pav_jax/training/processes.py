"""What several processes of one program divide, and how they agree.

A process has devices of its own, and all processes' devices make up the mesh.
Training runs on the mesh. What is sampled and graded on the way is divided by
problems: each process samples with its own devices, from a copy of the
parameters, and grades what it has sampled. Where the parameters are split over
the devices of several processes, these sample together instead, and divide only
the grading. In a single process nothing here does anything.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, PyTree, Shaped

from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.policies.base import Policy
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import Rollout
from pav_jax.training import messages


def is_first() -> bool:
  """Whether this is the process that reports and writes for all."""
  return jax.process_index() == 0


def share(number: int) -> slice:
  """The part of a number of things that falls to this process."""
  count, index = jax.process_count(), jax.process_index()
  return slice(index * number // count, (index + 1) * number // count)


def gather(rows: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
  """The rows of all processes, in their order; waits for all.

  Args:
    rows: as many as there are; the other axes are the same in all processes.
  """
  if jax.process_count() == 1:
    return rows
  numbers = multihost_utils.process_allgather(np.array([len(rows)]))[:, 0]
  missing = int(numbers.max()) - len(rows)
  # As bytes: on devices there are no 64-bit numbers.
  whole = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
  found = multihost_utils.process_allgather(
    np.ascontiguousarray(whole).view(np.uint8).reshape(-1)
  )
  return np.concatenate(
    [
      part.view(rows.dtype).reshape(whole.shape)[:number]
      for part, number in zip(np.asarray(found), numbers, strict=True)
    ]
  )


def gather_objects(some: Sequence[Any]) -> list[Any]:
  """Objects of all processes, in their order; waits for all.

  Args:
    some: what `messages` sends; in a single process they come back as they are.
  """
  if jax.process_count() == 1:
    return list(some)
  sent = np.frombuffer(messages.encode(list(some)), np.uint8)
  sizes = gather(np.array([len(sent)]))
  ends = np.cumsum(sizes)
  received = gather(sent).tobytes()
  return [
    one
    for size, end in zip(sizes, ends, strict=True)
    for one in messages.decode(received[end - size : end])
  ]


def agree(found: Any) -> Any:
  """What process 0 found, for all: what decides how a run goes on."""
  return gather_objects([found])[0]


def led(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """A function that process 0 calls and the others `follow`.

  Args:
    fn: a program of all processes. Its argument goes to all of them.
  """

  def call(argument):
    agree((argument,))
    return fn(argument)

  return call


def follow(fn: Callable[[Any], Any]) -> None:
  """Calls a function whenever process 0 does, until that `dismiss`es."""
  while called := agree(None):
    fn(*called)


def dismiss() -> None:
  """Process 0 will call no more."""
  agree(None)


def to_sample(
  policy: Policy | LanguageModel, params: PyTree, layout: Layout | None
) -> tuple[Policy | LanguageModel, PyTree]:
  """A policy as it samples while its parameters are trained.

  Where devices have all parameters, each process divides what it samples over
  its own devices. Where parameters are split they stay where they are: all
  processes sample together then, and each has all responses. The policy's
  layout says which.

  Args:
    policy: any, or a bare `LanguageModel`.
    params: of the network, as `layout` has them.
    layout: of the training; None for one device.
  """
  if layout is None:
    return policy, params
  if layout.splits_parameters:
    return policy.on(layout), params
  return policy.on(layout.own), on_own(params)


def on_own(tree: PyTree) -> PyTree:
  """On this process's devices, arrays that each device has whole."""
  return jax.tree.map(partitioning.own, tree)


def together(network: Any) -> bool:
  """Whether a policy or verifier is split over devices of other processes.

  All processes have to call it then, with the same rows; and all get the same.
  """
  layout = getattr(network, "layout", None)
  return layout is not None and layout.spans_processes


def share_of(network: Any, number: int) -> slice:
  """The part of a number of things for which this process calls a network."""
  return slice(number) if together(network) else share(number)


def grade(
  problem: Any, rollout: Rollout, policy: Any
) -> Float[np.ndarray, "B"]:
  """Outcomes of responses; processes that have the same ones divide them.

  Args:
    problem: has `grade(rollout)`.
    rollout: of numpy arrays, at least one row.
    policy: that sampled it.
  """
  if not together(policy):
    return np.asarray(problem.grade(rollout), np.float32)
  # Each has a row at least, though none may be its share.
  number = len(rollout.tokens)
  rows = np.arange(number)[share(number)]
  graded = rows if len(rows) else [0]
  some = jax.tree.map(lambda x: np.asarray(x)[graded], rollout)
  found = np.asarray(problem.grade(some), np.float32)
  return gather(found[: len(rows)])
