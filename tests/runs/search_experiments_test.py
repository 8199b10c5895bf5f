"""Which verifiers and provers the experiments hand to a search."""

import dataclasses
import pathlib

import gin
import pytest

from pav_jax.cli import bindings, configuration
from pav_jax.provers import base
from pav_jax.provers.base import PolicyValues
from pav_jax.provers.best_of_k import BestOfK

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "gin" / "experiments"


@dataclasses.dataclass(frozen=True)
class VerifierOf(base.FixedProver):
  """Stands for the verifier in a directory."""

  path: str
  dtype: str | None = None

  placement = "host"

  def __call__(self, key, rollout):
    raise NotImplementedError


@pytest.fixture(autouse=True)
def no_bindings():
  gin.clear_config()
  yield
  gin.clear_config()


def settings_of(name, *more):
  """What an experiment's run is called with; nothing is loaded."""
  configuration.parse_gin([str(EXPERIMENTS / f"{name}.gin")], list(more))
  stand_ins = {
    "load_verifier": lambda path, dtype=None, **_: VerifierOf(path, dtype),
    "make_mesh": lambda **_: None,
  }
  return bindings.bound("search", stand_ins)["settings"]


def provers_of(settings):
  return {arm.name: (arm.prover, arm.alpha) for arm in settings.arms}


@pytest.mark.parametrize("size", ["2b", "9b", "27b"])
def test_a_policy_has_its_own_verifier_and_27b_the_weaker_prover(size):
  settings = settings_of(f"math_search_gemma2_{size}", "PROBLEM = None")
  own = VerifierOf(f"out/math_verifier_gemma2_{size}/verifier", "bfloat16")
  assert settings.policy == f"out/math_sft_gemma2_{size}/policy"
  assert settings.verifier == own and settings.dtype == "bfloat16"
  weaker = VerifierOf("out/math_verifier_gemma2_9b/verifier", "bfloat16")
  expected = {
    "beam, own policy": (PolicyValues(), None),
    "beam, Bo4": (BestOfK(PolicyValues(), 4), None),
    "beam, Q alone": (PolicyValues(), 0.0),
  }
  if size == "27b":
    expected["beam, 9B"] = (weaker, None)
  assert provers_of(settings) == expected
  # App. C, and the test problems of MATH.
  assert settings.ns == (1, 2, 4, 8, 16, 32, 64, 128)
  assert (settings.split, settings.first_problem) == ("test", 0)


def test_provers_of_other_strengths():
  settings = settings_of(
    "chain_search_provers", "POLICY = 'policy'", "VERIFIER = 'verifier'"
  )
  expected = {"beam, Q alone": (PolicyValues(), 0.0)}
  expected["K = 1"] = (PolicyValues(), None)
  for k in (2, 4, 8, 16, 32):
    expected[f"K = {k}"] = (BestOfK(PolicyValues(), k), None)
  assert provers_of(settings) == expected
  assert settings.verifier == VerifierOf("verifier")


def test_provers_of_other_policies():
  settings = settings_of(
    "chain_search_provers",
    "POLICY = 'policy'",
    "VERIFIER = 'verifier'",
    "WEAKER = 'weak'",
    "STRONGER = 'strong'",
    "ARMS = [@weaker/BeamArm(), @stronger/BeamArm()]",
  )
  assert provers_of(settings) == {
    "weaker prover": (VerifierOf("weak"), None),
    "stronger prover": (VerifierOf("strong"), None),
  }
  assert settings.verifier == VerifierOf("verifier")
