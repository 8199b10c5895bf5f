"""Device meshes, and which of their axes the batch lies on."""

from collections.abc import Sequence

import gin
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")


@gin.register
def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  *,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh with axes `("data", "fsdp", "tensor")`.

  Args:
    data: devices over which the batch is split; -1 for all that remain.
    fsdp: devices over which parameters and the batch are split.
    tensor: devices over which single layers are split.
    devices: to use; None for all there are.

  Raises:
    ValueError: if the axes do not use up the devices.
  """
  devices = jax.devices() if devices is None else devices
  if data == -1 and fsdp > 0 and tensor > 0:
    data = len(devices) // (fsdp * tensor)
  if min(data, fsdp, tensor) < 1 or data * fsdp * tensor != len(devices):
    raise ValueError(
      f"mesh of data={data}, fsdp={fsdp}, tensor={tensor}, expected positive "
      f"sizes whose product is {len(devices)}, the number of devices"
    )
  return jax.make_mesh(
    (data, fsdp, tensor),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices,
  )


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
