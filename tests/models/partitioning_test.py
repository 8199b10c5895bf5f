import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from pav_jax.models import partitioning


def test_eight_simulated_devices_are_what_these_tests_run_on():
  assert jax.device_count() == 8


@pytest.mark.parametrize(
  ("axes", "shape"),
  [
    ({}, (8, 1, 1)),
    ({"fsdp": 2}, (4, 2, 1)),
    ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ({"data": -1, "fsdp": 2, "tensor": 4}, (1, 2, 4)),
  ],
)
def test_mesh_uses_every_device_once(axes, shape):
  mesh = partitioning.make_mesh(**axes)
  assert mesh.axis_names == ("data", "fsdp", "tensor")
  assert mesh.devices.shape == shape
  assert {d.id for d in mesh.devices.flat} == {d.id for d in jax.devices()}
  assert mesh.axis_types == (AxisType.Auto,) * 3


def test_mesh_of_some_devices():
  mesh = partitioning.make_mesh(devices=jax.devices()[:2])
  assert mesh.devices.shape == (2, 1, 1)


@pytest.mark.parametrize(
  "axes",
  [
    {"data": 3},
    {"data": 4},
    {"data": 16},
    {"data": 0},
    {"data": -2},
    {"fsdp": 0},
    {"fsdp": -1},
    {"fsdp": 3},
    {"tensor": 16},
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes):
  with pytest.raises(ValueError, match="product is 8, the number of devices"):
    partitioning.make_mesh(**axes)


def test_batch_is_split_over_data_and_fsdp_and_copied_over_tensor():
  # 2 × 2 shards of 16 rows: 4 rows a device, each shard on 2 tensor devices.
  mesh = partitioning.make_mesh(2, 2, 2)
  x = jnp.arange(32).reshape(16, 2)
  split = jax.device_put(x, partitioning.over_batch(mesh))
  assert len(split.addressable_shards) == 8
  firsts = sorted(int(s.data[0, 0]) for s in split.addressable_shards)
  assert firsts == [0, 0, 8, 8, 16, 16, 24, 24]
  assert {s.data.shape for s in split.addressable_shards} == {(4, 2)}
  whole = jax.device_put(x, partitioning.replicated(mesh))
  for shard in whole.addressable_shards:
    np.testing.assert_array_equal(shard.data, x)


def test_batch_size_must_divide_evenly_over_the_shards():
  mesh = partitioning.make_mesh(2, 2, 2)
  for size in (4, 8, 12):
    partitioning.check_batch_size(mesh, size)
  for size in (0, -4, 2, 6):
    with pytest.raises(ValueError, match=f"batch_size is {size}, .* of 4,"):
      partitioning.check_batch_size(mesh, size)


def test_cores_that_do_not_divide_a_batch_are_left_out():
  whole = partitioning.make_mesh()
  for batch, devices in ((16, 8), (12, 4), (6, 2), (5, 1)):
    mesh = partitioning.for_batch(None, batch)
    assert mesh.shape["data"] == mesh.size == devices
    assert partitioning.for_batch(whole, batch) == mesh
  assert partitioning.for_batch(whole, 8) is whole
  # Who splits parameters has counted the devices.
  split = partitioning.make_mesh(4, 2)
  assert partitioning.for_batch(split, 16) is split
  with pytest.raises(ValueError, match=r"batch_size is 12, .* of 8"):
    partitioning.for_batch(split, 12)
  for size in (0, -4):
    with pytest.raises(ValueError, match=f"batch_size is {size}, "):
      partitioning.for_batch(None, size)


def test_a_batch_divides_over_all_devices_of_several_processes(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(ValueError, match=r"batch_size is 12, .* of 8"):
    partitioning.for_batch(None, 12)


def test_a_process_has_its_own_part_of_a_layout():
  layout = partitioning.Layout(partitioning.make_mesh())
  assert layout.own is layout
  one = partitioning.make_mesh(devices=jax.devices()[:1])
  assert partitioning.Layout(one).own is None


def test_rules_say_where_named_axes_lie():
  layout = partitioning.Layout(partitioning.make_mesh(2, 2, 2))
  spec = layout.spec(("batch", "length", "mlp"))
  assert spec == PartitionSpec(("data", "fsdp"), None, ("tensor",))
  # 16 rows over 2 × 2 devices, 6 features over 2.
  x = jax.jit(
    lambda: layout.constrain(jnp.ones((16, 3, 6)), *("batch", "length", "mlp"))
  )()
  assert {s.data.shape for s in x.addressable_shards} == {(4, 3, 3)}
  assert partitioning.constrain(None, x, "no", "such", "axis") is x


def test_a_layout_is_static():
  mesh = partitioning.make_mesh(2, 2, 2)
  layout = partitioning.Layout(mesh)
  assert hash(layout) == hash(partitioning.Layout(mesh))
  assert layout != partitioning.Layout(mesh, (("batch", ("data",)),))


def test_shardings_of_a_tree():
  layout = partitioning.Layout(partitioning.make_mesh(2, 2, 2))
  axes = {"a": PartitionSpec("embed", "mlp"), "b": [PartitionSpec()]}
  shapes = {"a": jax.ShapeDtypeStruct((4, 6), "float32"), "b": [jnp.ones(())]}
  shardings = layout.shardings(axes, shapes)
  assert shardings["a"].shard_shape((4, 6)) == (2, 3)
  assert shardings["b"][0].is_fully_replicated
  shapes["a"] = jnp.ones((4, 7))
  with pytest.raises(
    ValueError, match=r"\['a'\] has 'mlp' of size 7, expected a multiple of 2,"
  ):
    layout.shardings(axes, shapes)


def test_rules_that_do_not_fit_are_refused():
  mesh = partitioning.make_mesh()
  with pytest.raises(ValueError, match=r"'mlp' is \('model',\), expected axes"):
    partitioning.Layout(mesh, (("mlp", ("model",)),))
  layout = partitioning.Layout(mesh)
  with pytest.raises(ValueError, match="axis is 'width', expected one of"):
    layout.spec(("batch", "width"))
  # Both are split over fsdp, which one array cannot be twice.
  with pytest.raises(ValueError, match=r"'fsdp': 2.*, expected .* once"):
    layout.spec(("batch", "embed"))


class Chip(types.SimpleNamespace):
  """What a mesh asks of a TPU's chip."""

  __hash__ = object.__hash__


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  ("kind", "sides"), [("TPU v6 lite", (8, 8, 1)), ("TPU v5", (4, 4, 4))]
)
def test_an_axis_of_a_torus_may_be_divided(kind, sides):
  """32 and 2 are no products of 8 and 8, nor of 4, 4 and 4, taken whole."""
  chips = [
    Chip(
      platform="tpu",
      device_kind=kind,
      id=i,
      coords=coords,
      core_on_chip=0,
      process_index=0,
      client=None,
    )
    for i, coords in enumerate(np.ndindex(*sides))
  ]
  mesh = partitioning.make_mesh(fsdp=32, tensor=2, devices=chips)
  assert mesh.devices.shape == (1, 32, 2)
  assert {chip.id for chip in mesh.devices.flat} == set(range(64))
  # The two that share a layer, whose traffic is the heaviest, are neighbours.
  for a, b in mesh.devices[0]:
    assert sum(abs(np.subtract(a.coords, b.coords))) == 1


@pytest.mark.usefixtures("no_shape_checks")
def test_devices_of_several_slices_are_refused():
  chips = [Chip(id=i, slice_index=i // 2) for i in range(4)]
  with pytest.raises(ValueError, match="devices are of 2 slices"):
    partitioning.make_mesh(devices=chips)
