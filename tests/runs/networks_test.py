import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import partitioning, transformer
from pav_jax.models import value_network as network
from pav_jax.models.partitioning import Layout
from pav_jax.models.presets import preset
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.chain import Chain
from pav_jax.provers import base
from pav_jax.provers.rollout_values import WellFormed
from pav_jax.provers.verifier import Verifier
from pav_jax.runs import networks

PROBLEM = Chain(horizon=3)
IDS = PROBLEM.problem_ids("test", 0, 8)


def test_networks_lie_on_all_devices_of_a_process():
  layout = networks.layout_of(None)
  assert layout.mesh.shape["data"] == layout.mesh.size == 8
  half = partitioning.make_mesh(devices=jax.devices()[:4])
  assert networks.layout_of(half) == Layout(half)


def test_one_device_needs_no_layout(monkeypatch):
  monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
  assert networks.layout_of(None) is None


@pytest.mark.usefixtures("no_shape_checks")
def test_devices_of_other_processes_are_refused(monkeypatch):
  monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:4])
  with pytest.raises(ValueError, match=r"expected make_mesh\.local = True"):
    networks.layout_of(partitioning.make_mesh(devices=jax.devices()))


def test_a_copied_verifier_scores_as_the_one_did():
  """Each device scores some of the rows, with all parameters."""
  trunk = preset("tiny", num_layers=2)
  config = VerifierConfig(trunk)
  params = network.init(
    config, transformer.init(trunk, jax.random.key(0)), jax.random.key(1)
  )
  params["head"]["kernel"] = jnp.linspace(-1, 1, trunk.width)
  verifier = Verifier(params, config)
  layout = networks.layout_of(None)
  copied = base.placed(verifier, layout)
  assert copied.layout == layout
  for x in jax.tree.leaves(copied.params):
    assert x.is_fully_replicated and len(x.sharding.device_set) == 8
  within = base.placed(WellFormed(verifier, PROBLEM), layout)
  assert base.layout_of(within) == layout and within.problem is PROBLEM
  rollout = PROBLEM.demonstrations(IDS, np.zeros_like(IDS))
  score = jax.jit(Verifier.logits)
  found, expected = score(copied, rollout), score(verifier, rollout)
  assert len(found.sharding.device_set) == 8
  assert np.std(expected) > 0.01
  # Sums of some hundred products in single precision.
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_needs_no_copies_is_given_back():
  layout = networks.layout_of(None)
  verifier = Verifier({"w": jnp.ones(3)}, VerifierConfig(preset("tiny")))
  placed = base.placed(verifier, layout)
  split = Layout(partitioning.make_mesh(4, 2))
  assert base.placed(verifier, None) is verifier
  assert base.placed(verifier, split) is verifier
  assert base.placed(placed, layout) is placed
