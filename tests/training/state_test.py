import contextlib
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pav_jax.models import partitioning
from pav_jax.training import state as state_module
from pav_jax.training.rl_learning import RlState
from pav_jax.training.state import Checkpoints, checksum, sha256


def state_of(value):
  params = {"w": jnp.full((2, 3), value), "b": jnp.arange(3.0)}
  return RlState(params, optax.adam(1e-3).init(params), (), ())


@pytest.fixture
def directory(tmp_path):
  """Checkpoints after 10 and 20 iterations, holding 10.0 and 20.0."""
  checkpoints = Checkpoints(tmp_path / "c", config={"alpha": "1.0"})
  for iteration in (10, 20):
    checkpoints.save(iteration, state_of(float(iteration)), iteration / 10)
  checkpoints.close()
  return tmp_path / "c"


def restore(directory, **config):
  checkpoints = Checkpoints(directory, config={"alpha": "1.0"} | config)
  try:
    return checkpoints.restore(state_of(0.0))
  finally:
    checkpoints.close()


def test_round_trip_is_exact(directory):
  with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    iteration, state, seconds = restore(directory)
  assert (iteration, seconds) == (20, 2.0)
  assert jax.tree.structure(state) == jax.tree.structure(state_of(20.0))
  jax.tree.map(np.testing.assert_array_equal, state, state_of(20.0))


def test_moments_in_bfloat16_come_back_as_they_were(tmp_path):
  def state_at(value):
    params = {"w": jnp.full(3, value)}
    optimizer = optax.adam(1e-3, mu_dtype="bfloat16")
    _, moments = optimizer.update(params, optimizer.init(params))
    return RlState(params, moments, (), ())

  checkpoints = Checkpoints(tmp_path / "c", config={})
  saved = state_at(0.3)
  assert saved.update[0].mu["w"].dtype == jnp.bfloat16
  checkpoints.save(1, saved, 0.0)
  _, state, _ = checkpoints.restore(state_at(0.0))
  checkpoints.close()
  assert state.update[0].mu["w"].dtype == jnp.bfloat16
  jax.tree.map(np.testing.assert_array_equal, state, saved)


def test_nothing_saved_is_none(tmp_path):
  assert restore(tmp_path / "new") is None


def test_another_configuration_is_refused_and_named(directory):
  with pytest.raises(ValueError, match=r"alpha was 1\.0, now 2\.0"):
    restore(directory, alpha="2.0")


def test_another_vocabulary_or_delimiter_is_refused_naming_both(tmp_path):
  def opened(fingerprint):
    checkpoints = Checkpoints(tmp_path, config={}, fingerprint=fingerprint)
    return contextlib.closing(checkpoints)

  one, two = "a" * 64, "b" * 64
  with opened(one) as checkpoints:
    checkpoints.save(1, state_of(1.0), 0.0)
  with opened(one) as checkpoints:
    assert checkpoints.restore(state_of(0.0))[0] == 1
  with (
    opened(two) as checkpoints,
    pytest.raises(ValueError, match=f"fingerprint was {one}, now {two}"),
  ):
    checkpoints.restore(state_of(0.0))
  with (
    opened(None) as checkpoints,
    pytest.raises(ValueError, match=f"fingerprint was {one}, now absent"),
  ):
    checkpoints.restore(state_of(0.0))


def test_long_settings_are_named_by_what_differs(tmp_path):
  long = "x" * 300
  checkpoints = Checkpoints(tmp_path, config={"arm": f"{long}step=1{long}"})
  checkpoints.save(1, state_of(1.0), 0.0)
  checkpoints.close()
  with pytest.raises(ValueError) as error:
    Checkpoints(tmp_path, config={"arm": f"{long}step=2{long}"}).restore(
      state_of(0.0)
    )
  assert "step=1" in str(error.value) and "step=2" in str(error.value)
  assert len(str(error.value)) < 600


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "meta"])
def test_damaged_checkpoint_gives_the_one_before_and_a_warning(
  directory, damage
):
  if damage == "meta":
    (directory / "20" / "meta" / "metadata").write_text("{")
  elif damage == "remove":
    for path in list((directory / "20" / "state").rglob("*")):
      if path.is_file():
        path.unlink()
  else:
    # Data files of all sizes: some hold arrays, some say where these are.
    for path in (directory / "20" / "state").rglob("*"):
      if path.is_file() and "/d/" in str(path):
        data = bytearray(path.read_bytes())
        if damage == "truncate":
          data = data[: len(data) // 2]
        else:
          data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))
  with pytest.warns(UserWarning, match="checkpoint 20 cannot be read"):
    iteration, state, _ = restore(directory)
  assert iteration == 10
  jax.tree.map(np.testing.assert_array_equal, state, state_of(10.0))
  # It was set aside, not deleted, and its place can be written again.
  assert (directory / "unreadable-20").is_dir()
  checkpoints = Checkpoints(directory, config={"alpha": "1.0"})
  checkpoints.save(20, state_of(21.0), 0.0)
  checkpoints.close()
  assert restore(directory)[1].params["w"][0, 0] == 21.0


def test_digest_notices_what_orbax_would_accept(directory):
  # A checkpoint whose arrays are sound but are not those that were saved.
  metadata = directory / "20" / "meta" / "metadata"
  good = sha256(state_of(20.0))
  assert good in metadata.read_text()
  metadata.write_text(metadata.read_text().replace(good, "0" * 64))
  with pytest.warns(UserWarning, match="do not match the digest"):
    assert restore(directory)[0] == 10


def test_only_damaged_checkpoints_are_an_error_and_no_fresh_start(directory):
  for iteration in (10, 20):
    (directory / str(iteration) / "meta" / "metadata").write_text("")
  with (
    pytest.warns(UserWarning, match="cannot be read"),
    pytest.raises(ValueError, match="2 unreadable checkpoints"),
  ):
    restore(directory)
  # And again, now that both are set aside.
  with pytest.raises(ValueError, match="2 unreadable checkpoints"):
    restore(directory)


def test_digest_depends_on_every_bit():
  state = state_of(1.0)
  other = state_of(np.nextafter(np.float32(1), np.float32(2)))
  assert sha256(state) == sha256(state_of(1.0)) != sha256(other)


def test_a_checksum_does_not_depend_on_where_parts_lie():
  tree = {
    "a": jnp.arange(32.0).reshape(8, 4) / 7,
    "b": jnp.arange(16, dtype=jnp.bfloat16),
    "c": np.float64(0.1),
  }
  mesh = partitioning.make_mesh(data=2, fsdp=4)

  def laid_out(spec):
    sharding = NamedSharding(mesh, spec)
    return tree | {name: jax.device_put(tree[name], sharding) for name in "ab"}

  expected = checksum(tree)
  for spec in (P("fsdp"), P(("data", "fsdp")), P(), P("data")):
    assert checksum(laid_out(spec)) == expected


@pytest.mark.parametrize(
  "change",
  [
    lambda x: x.at[0, 3].set(x[0, 3] * (1 + 2**-7)),  # one bit of bfloat16
    lambda x: x.at[0, 0].set(-0.0),
    lambda x: x.T,
    lambda x: x[::-1],
    lambda x: x.reshape(2, 8),
    lambda x: x.astype(jnp.float32),
  ],
)
def test_a_checksum_tells_what_changed(change):
  x = jnp.arange(16, dtype=jnp.bfloat16).reshape(4, 4)
  assert checksum(x) == checksum(x + 0)
  assert checksum(change(x)) != checksum(x)


def test_a_checkpoint_of_split_arrays_is_checked(tmp_path, monkeypatch):
  """As of several processes, which cannot have arrays as a whole."""
  monkeypatch.setattr(
    state_module, "_digest", lambda tree: {"checksum": checksum(tree)}
  )
  checkpoints = Checkpoints(tmp_path, config={})
  checkpoints.save(1, state_of(1.0), 0.0)
  assert checkpoints.restore(state_of(0.0))[0] == 1
  monkeypatch.setattr(
    state_module, "_digest", lambda tree: {"checksum": checksum(state_of(2.0))}
  )
  checkpoints.save(2, state_of(3.0), 0.0)
  with pytest.warns(UserWarning, match="2 cannot be read .its arrays do not"):
    assert checkpoints.restore(state_of(0.0))[0] == 1
  checkpoints.close()


def test_a_checkpoint_under_another_number_is_not_taken_for_it(directory):
  (directory / "20").rename(directory / "30")
  with pytest.warns(UserWarning, match="30 cannot be read .it was saved as 20"):
    assert restore(directory)[0] == 10
  # The way out: under its own number it is good.
  (directory / "unreadable-30").rename(directory / "20")
  assert restore(directory)[0] == 20


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_poisoned_state_is_never_saved(directory, bad):
  checkpoints = Checkpoints(directory, config={"alpha": "1.0"})
  state = state_of(30.0)
  state.params["w"] = state.params["w"].at[1, 2].set(bad)
  with pytest.raises(FloatingPointError) as error:
    checkpoints.save(30, state, 0.0)
  checkpoints.close()
  assert str(error.value) == (
    "parameters after 30 are not finite: ['w'], float32[2, 3], has infinities "
    "or NaN; 20 is kept"
  )
  assert restore(directory)[0] == 20


def test_after_a_lost_state_later_checkpoints_are_written_anew(directory):
  """Orbax itself declines to save what is older than the newest."""
  checkpoints = Checkpoints(directory, config={"alpha": "1.0"})
  checkpoints.save(5, state_of(5.0), 0.0)
  assert checkpoints.newest == 5
  checkpoints.save(10, state_of(11.0), 0.0)
  checkpoints.close()
  iteration, state, _ = restore(directory)
  assert (iteration, state.params["w"][0, 0]) == (10, 11.0)


def test_a_full_disk_is_told_before_anything_is_written(directory, monkeypatch):
  usage = shutil.disk_usage(directory)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50))
  checkpoints = Checkpoints(directory, config={"alpha": "1.0"})
  with pytest.raises(OSError, match=r"could not write .*30: the disk is full"):
    checkpoints.save(30, state_of(30.0), 0.0)
  assert sorted(path.name for path in directory.iterdir()) == ["10", "20"]
  monkeypatch.undo()
  checkpoints.save(30, state_of(30.0), 0.0)  # the way out
  checkpoints.close()
  assert restore(directory)[0] == 30


def test_what_a_kill_while_saving_leaves_is_cleared(directory):
  left = directory / "30.orbax-checkpoint-tmp-7"
  (left / "state").mkdir(parents=True)
  assert restore(directory)[0] == 20
  assert not left.exists()


def test_a_checkpoint_that_is_needed_and_lost_says_how_to_start_afresh(
  directory, tmp_path
):
  def opened():
    config = {"alpha": "1.0"}
    return Checkpoints(directory, config=config, afresh=tmp_path)

  assert opened().restore_needed(state_of(0.0))[0] == 20
  for iteration in (10, 20):
    (directory / str(iteration) / "meta" / "metadata").write_text("")
  message = f"unreadable checkpoints and none .*; move {tmp_path} away"
  with pytest.warns(UserWarning), pytest.raises(ValueError, match=message):
    opened().restore_needed(state_of(0.0))
  shutil.rmtree(directory)
  message = f"has lost its checkpoint; move {tmp_path} away to start afresh"
  with pytest.raises(ValueError, match=message):
    opened().restore_needed(state_of(0.0))
