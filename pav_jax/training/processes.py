"""What several processes of one program divide, and how they agree.

A process has devices of its own, and all processes' devices make up the mesh.
Training runs on the mesh. What is sampled and graded on the way is divided by
problems: each process samples with its own devices, from a copy of the
parameters, and grades what it has sampled. In a single process nothing here
does anything.
"""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree, Shaped


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
  """Python objects of all processes, in their order; waits for all."""
  if jax.process_count() == 1:
    return list(some)
  sent = np.frombuffer(pickle.dumps(list(some)), np.uint8)
  found = gather(sent).tobytes()
  stream, objects = io.BytesIO(found), []
  for _ in range(jax.process_count()):
    objects += pickle.load(stream)
  return objects


def agree(found: Any) -> Any:
  """What process 0 found, for all: what decides how a run goes on."""
  return gather_objects([found])[0]


def on_own_devices(tree: PyTree) -> PyTree:
  """Copies of arrays for this process's devices; all processes take part.

  What every device has as a whole is handed on as it is. If something is split
  it is gathered, and split over this process's devices, along the axis that was
  split or else the longest that they divide.
  """
  arrays, form = jax.tree.flatten(tree)
  if jax.process_count() == 1:
    return tree
  if all(x.is_fully_replicated for x in arrays):
    return form.unflatten(x.addressable_data(0) for x in arrays)
  own = jax.local_devices()
  devices = sorted(jax.devices(), key=lambda x: (x.process_index, x.id))
  devices = np.array(devices).reshape(-1, len(own))
  everywhere = Mesh(devices, ("process", "own"))
  here = Mesh(devices[jax.process_index()], ("own",))

  def spec(x):
    even = [axis for axis in range(x.ndim) if not x.shape[axis] % len(own)]
    if not even:
      return PartitionSpec()
    part = x.sharding.shard_shape(x.shape)
    best = max(even, key=lambda i: (part[i] < x.shape[i], x.shape[i]))
    return PartitionSpec(*[None] * best, "own")

  def local(x, axes):
    return jax.make_array_from_single_device_arrays(
      x.shape,
      NamedSharding(here, axes),
      [shard.data for shard in x.addressable_shards],
    )

  specs = [spec(x) for x in arrays]
  gathered = jax.device_put(
    arrays, [NamedSharding(everywhere, axes) for axes in specs]
  )
  return form.unflatten(map(local, gathered, specs))
