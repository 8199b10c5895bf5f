"""Device meshes, and which of their axes arrays lie on.

Every axis of a parameter or activation has a logical name. One table says over
which mesh axes each name is split; whether a run is data parallel, fully
sharded, tensor parallel or a mixture then follows from the mesh's sizes alone.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXES = ("data", "fsdp", "tensor")

# (logical axis, the mesh axes that it is split over).
RULES = (
  ("batch", ("data", "fsdp")),  # where tokens meet parameters
  ("sequences", ("data", "fsdp")),  # where a text's tokens meet each other
  ("length", ()),
  ("residual", ()),  # of activations: D
  ("layers", ()),  # of parameters: pairs of layers, scanned
  ("vocab", ("tensor",)),
  ("embed", ("fsdp",)),  # of parameters: D
  ("norm", ()),
  ("heads", ("tensor",)),
  ("kv_heads", ("tensor",)),
  ("head_dim", ()),
  ("mlp", ("tensor",)),
  ("rank", ()),  # of adapters
)

# What differs where a token is added at a time. Activations are small beside
# the parameters, so parameters stay where they are and each device multiplies
# with its part of the residual stream (Pope et al., 2022, Sec. 3.2.2). Under
# the rules above every token would fetch all parameters from other devices.
DECODING_RULES = {"batch": ("data",), "residual": ("fsdp",)}


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  *,
  local: bool = False,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh with axes `("data", "fsdp", "tensor")`.

  Args:
    data: devices over which the batch is split; -1 for all that remain.
    fsdp: devices over which parameters and the batch are split.
    tensor: devices over which single layers are split.
    local: of several processes' devices use this one's.
    devices: to use; None for all there are, or all of this process.

  Raises:
    ValueError: if the axes do not use up the devices, or these are of several
      slices.
  """
  if devices is None:
    devices = jax.local_devices() if local else jax.devices()
  if data == -1 and fsdp > 0 and tensor > 0:
    data = len(devices) // (fsdp * tensor)
  if min(data, fsdp, tensor) < 1 or data * fsdp * tensor != len(devices):
    raise ValueError(
      f"mesh of data={data}, fsdp={fsdp}, tensor={tensor}, expected positive "
      f"sizes whose product is {len(devices)}, the number of devices"
    )
  slices = {getattr(device, "slice_index", 0) for device in devices}
  if len(slices) > 1:
    raise ValueError(
      f"devices are of {len(slices)} slices, expected one: collectives between "
      "slices are not laid out"
    )
  # Not jax.make_mesh, which divides an axis of the torus on v5e alone: of an
  # 8x8 slice it makes no mesh of 32 and 2.
  grid = mesh_utils.create_device_mesh(
    (data, fsdp, tensor), devices, allow_split_physical_axes=True
  )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
  """The leading axis split over the mesh's data and fsdp axes."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
  """Raises ValueError unless the batch divides evenly over the mesh."""
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  if batch_size < 1 or batch_size % shards:
    raise ValueError(
      f"batch_size is {batch_size}, expected a positive multiple of {shards}, "
      "the mesh's data × fsdp devices"
    )


def for_batch(mesh: Mesh | None, batch_size: int) -> Mesh:
  """The mesh, if a batch divides evenly over it.

  The devices of a single process on a CPU are cores, which nobody has counted
  out: of those on the data axis as many as divide the batch are kept.

  Args:
    mesh: from `make_mesh`; None for all devices on the data axis.
    batch_size: rows that it is to be split over.

  Raises:
    ValueError: if the batch does not divide evenly.
  """
  mesh = make_mesh() if mesh is None else mesh
  devices = list(mesh.devices.flat)
  is_cpu = jax.process_count() == 1 and devices[0].platform == "cpu"
  if is_cpu and mesh.shape["data"] == len(devices):
    number = math.gcd(len(devices), batch_size)
    if number < len(devices):
      mesh = make_mesh(number, devices=devices[:number])
  check_batch_size(mesh, batch_size)
  return mesh


def put(tree: PyTree, sharding: PyTree) -> PyTree:
  """Arrays on a mesh, from arrays that all processes have as a whole.

  Each process hands its devices their parts. Arrays that are on a mesh of all
  processes already are moved.

  Args:
    tree: of arrays, equal in all processes.
    sharding: of each of them, or one for all.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def place(x, where):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return jax.device_put(x, where)
    whole = np.asarray(x)
    return jax.make_array_from_callback(
      whole.shape, where, lambda part: whole[part]
    )

  if isinstance(sharding, NamedSharding):
    return jax.tree.map(lambda x: place(x, sharding), tree)
  return jax.tree.map(place, tree, sharding)


def is_split(tree: PyTree) -> bool:
  """Whether an array has parts that no device of this process has."""
  return any(
    isinstance(x, jax.Array)
    and not (x.is_fully_addressable or x.is_fully_replicated)
    for x in jax.tree.leaves(tree)
  )


def own(x: jax.Array) -> jax.Array:
  """An array of all processes, on this one's devices; each has it whole."""
  if x.is_fully_addressable:
    return x
  copies = [shard.data for shard in x.addressable_shards]
  if len(copies) == 1:
    return copies[0]
  mesh = make_mesh(devices=[copy.device for copy in copies])
  return jax.make_array_from_single_device_arrays(
    x.shape, replicated(mesh), copies
  )


def to_host(x: Any) -> np.ndarray:
  """An array as a whole; if it is split over processes, all take part."""
  if is_split(x):
    x = multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where arrays with named axes lie on a mesh.

  Attributes:
    mesh: from `make_mesh`.
    rules: pairs (logical axis, mesh axes that it is split over).
  """

  mesh: Mesh
  rules: tuple[tuple[str, tuple[str, ...]], ...] = RULES

  def __post_init__(self):
    for name, axes in self.rules:
      if not set(axes) <= set(self.mesh.axis_names):
        raise ValueError(
          f"rule for {name!r} is {axes}, expected axes of the mesh, "
          f"{self.mesh.axis_names}"
        )

  @property
  def decoding(self) -> "Layout":
    """The same, for what adds few tokens at a time: `DECODING_RULES`."""
    rules = tuple(
      (name, DECODING_RULES.get(name, axes)) for name, axes in self.rules
    )
    return dataclasses.replace(self, rules=rules)

  @property
  def splits_parameters(self) -> bool:
    """Whether a device has less than all parameters."""
    return self.mesh.shape["fsdp"] * self.mesh.shape["tensor"] > 1

  @property
  def own(self) -> "Layout | None":
    """On this process's devices of the mesh; None if that is one device."""
    here = jax.process_index()
    devices = [d for d in self.mesh.devices.flat if d.process_index == here]
    if len(devices) == 1:
      return None
    if len(devices) == self.mesh.size:
      return self
    return Layout(make_mesh(devices=devices), self.rules)

  @property
  def spans_processes(self) -> bool:
    """Whether some of the devices are another process's."""
    return jax.process_count() > 1 and any(
      device.process_index != jax.process_index()
      for device in self.mesh.devices.flat
    )

  def spec(self, axes: Sequence[str]) -> PartitionSpec:
    """Mesh axes of an array whose axes have these logical names.

    Raises:
      ValueError: if a name has no rule, or one mesh axis would split two axes.
    """
    rules = dict(self.rules)
    for name in axes:
      if name not in rules:
        raise ValueError(f"axis is {name!r}, expected one of {sorted(rules)}")
    used = collections.Counter(axis for name in axes for axis in rules[name])
    if any(count > 1 for count in used.values()):
      raise ValueError(
        f"rules split the axes {tuple(axes)} over {dict(used)}, expected each "
        "mesh axis at most once in one array"
      )
    return PartitionSpec(*(rules[name] or None for name in axes))

  def num_shards(self, *axes: str) -> int:
    """Into how many parts an array with axes of these names is split."""
    rules = dict(self.rules)
    return math.prod(self.mesh.shape[x] for name in axes for x in rules[name])

  def shardings(self, axes: PyTree, shapes: PyTree) -> PyTree:
    """Shardings of a tree of parameters.

    Args:
      axes: a `PartitionSpec` of logical names for each parameter.
      shapes: the parameters, or anything of their `shape`s.

    Raises:
      ValueError: if an axis does not divide evenly over its mesh axes.
    """

    def sharding(path, names, array):
      spec = self.spec(tuple(names))
      for name, size in zip(names, array.shape, strict=True):
        over, shards = dict(self.rules)[name], self.num_shards(name)
        if size % shards:
          raise ValueError(
            f"{jax.tree_util.keystr(path)} has {name!r} of size {size}, "
            f"expected a multiple of {shards}, the devices along {over}"
          )
      return NamedSharding(self.mesh, spec)

    return jax.tree_util.tree_map_with_path(
      sharding, axes, shapes, is_leaf=lambda x: isinstance(x, PartitionSpec)
    )

  def constrain(self, x: jax.Array, *axes: str) -> jax.Array:
    """The same array, held as the rules say for axes of these names."""
    sharding = NamedSharding(self.mesh, self.spec(axes))
    return jax.lax.with_sharding_constraint(x, sharding)


def constrain(layout: Layout | None, x: jax.Array, *axes: str) -> jax.Array:
  """`layout.constrain`, or the array as it is if there is no layout."""
  return x if layout is None else layout.constrain(x, *axes)
