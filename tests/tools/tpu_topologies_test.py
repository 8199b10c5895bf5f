import os

import pytest

from tools import tpu_topologies

GIB = 2**30


def test_names_say_kind_and_number():
  assert tpu_topologies.parse("v5e:4x8") == ("v5e", 32)
  assert tpu_topologies.parse("v5p:2x2x4") == ("v5p", 16)


@pytest.mark.parametrize("name", ["v5e", "v9z:2x2", "v5e:2", "v5e:2x2x2x2", ""])
def test_other_names_are_refused(name):
  with pytest.raises(ValueError, match=f"topology is '{name}', expected KIND"):
    tpu_topologies.parse(name)


def test_a_slice_without_chips_is_refused():
  with pytest.raises(ValueError, match="no chips"):
    tpu_topologies.parse("v5e:0x2")


def test_memory_is_a_little_less_than_published():
  # cloud.google.com/tpu/docs: 16, 95 and 32 GB; programs get nearly all of it.
  for kind, published in (("v5e", 16), ("v5p", 96), ("v6e", 32)):
    share = tpu_topologies.CHIPS[kind].hbm / (published * GIB)
    assert 0.97 < share < 1


def test_the_clock_gives_the_published_peak():
  # 197, 459 and 918 TFLOP/s in bfloat16; operations of a cycle: v5e 4 units of
  # 128², v5p 8 of them, v6e 4 of 256²; a multiplication and an addition each.
  for kind, units, size, peak in (
    ("v5e", 4, 128, 197e12),
    ("v5p", 8, 128, 459e12),
    ("v6e", 4, 256, 918e12),
  ):
    rate = tpu_topologies.CHIPS[kind].clock * units * size**2 * 2
    assert rate == pytest.approx(peak, rel=0.01)


def test_slices_grow():
  for kind, chip in tpu_topologies.CHIPS.items():
    sizes = [tpu_topologies.parse(f"{kind}:{x}")[1] for x in chip.slices]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] >= 256


def test_slices_have_as_many_devices_as_their_names_say():
  pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is absent")
  for kind, chip in tpu_topologies.CHIPS.items():
    for size in (chip.slices[0], chip.slices[3]):
      found = tpu_topologies.describe(name := f"{kind}:{size}")
      assert len(found.devices) == tpu_topologies.parse(name)[1]
      assert {device.platform for device in found.devices} == {"tpu"}


def test_a_slice_that_there_is_not_is_refused():
  pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is absent")
  with pytest.raises(ValueError, match="refuses topology 'v5e:3x5'"):
    tpu_topologies.describe("v5e:3x5")


def test_what_native_code_says_is_held_back(capfd):
  with tpu_topologies.quiet():
    os.write(2, b"noise\n")
  os.write(2, b"news\n")
  assert capfd.readouterr().err == "news\n"
