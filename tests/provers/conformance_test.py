"""Every prover says the same to reinforcement learning and to search.

On word problems of a tiny language model, whose provers run on the device and
on the host, and on the planted sub-sequence, where all of them are pure.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.credit import EffectiveReward
from pav_jax.models import transformer
from pav_jax.models import value_network as network
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.for_problem import ProblemPolicy, language_model
from pav_jax.policies.made_policy import MadePolicy
from pav_jax.problems.chain import Chain
from pav_jax.problems.planted import Planted
from pav_jax.provers import base
from pav_jax.provers.adaptive import AdaptiveK
from pav_jax.provers.best_of_k import BestOfK
from pav_jax.provers.importance import ImportanceSampling
from pav_jax.provers.monte_carlo import MonteCarlo
from pav_jax.provers.procedural import Procedural
from pav_jax.provers.public.step_joining import (
  SKYWORK,
  ChatAnswer,
  ChatSteps,
  SeparatedSteps,
  TaggedSteps,
  TurnSteps,
)
from pav_jax.provers.public.step_reader import LogRatioReader, StepReader
from pav_jax.provers.rollout_values import ClosedForm, WellFormed, WithinLimit
from pav_jax.provers.verifier import Verifier
from pav_jax.search.cached_beams import search
from pav_jax.search.selection import Settings
from pav_jax.search.value_function import value_function
from pav_jax.testing.byte_tokens import ByteTokens
from pav_jax.training import rl_learning, rl_placement
from pav_jax.training.rl import Arm, Trainer
from pav_jax.training.rl_placement import Hosted
from pav_jax.training.updates import Gradient

KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class EvenSum(Chain):
  """Correct are responses with an even sum of tokens: half of a random model's.

  Unlike the grade of a model that never learnt anything it tells rows apart.
  """

  def grade(self, rollout):
    tokens = np.asarray(rollout.tokens)
    return (tokens.sum(-1) % 2 == 0).astype(np.float32)


PLUS = dataclasses.replace(Chain().operations[0], error=0.25)
PROBLEM = EvenSum(horizon=2, modulus=4, operations=(PLUS,), rho=0.0)
CONFIG = TransformerConfig(
  vocab_size=16,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  sliding_window=8,
  max_length=32,
)
POLICY = language_model(CONFIG, PROBLEM, max_new_tokens=12)
PARAMS = transformer.init(CONFIG, jax.random.key(1))
IDS = PROBLEM.problem_ids("train", 0, 8)
ROLLOUT = PROBLEM.demonstrations(IDS, np.zeros_like(IDS))


def verifier():
  config = VerifierConfig(CONFIG)
  params = network.init(config, PARAMS, KEY)
  kernel = jnp.linspace(-1, 1, CONFIG.width)
  return Verifier(
    params | {"head": params["head"] | {"kernel": kernel}}, config
  )


# What public reward models have for tokens: bytes, and what marks steps.
WORDS = ByteTokens(
  ("<extra_0>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "+", "ки")
)
OTHER = dataclasses.replace(CONFIG, vocab_size=WORDS.vocab_size, max_length=512)


BACKBONE = transformer.init(OTHER, jax.random.key(4))


def public_prover(joining, outputs, rule, *, offset=0):
  """A random reward model of a head of layers, in another's tokens."""
  rng, inputs = np.random.default_rng(0), (OTHER.width, *outputs)
  head = (
    {"kernel": jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5)}
    for shape in itertools.pairwise(inputs)
  )
  reader = StepReader(
    params={"backbone": BACKBONE, "head": tuple(head)},
    config=OTHER,
    meaning="value" if rule == "last" else "correctness",
    joining=joining,
    tokenizer=WORDS,
    offset=offset,
  )
  return reader.prover(PROBLEM, rule=rule)


def log_ratio_prover():
  """Of a random model, and of the same less sure of itself."""
  less = BACKBONE | {
    "final_norm": {"scale": BACKBONE["final_norm"]["scale"] - 0.5}
  }
  return LogRatioReader(
    params={"policy": BACKBONE, "reference": less},
    config=(OTHER, OTHER),
    beta=0.1,
    joining=ChatAnswer(system=""),
    tokenizer=WORDS,
  ).prover(PROBLEM)


PUBLIC = {
  "token_classification": public_prover(SeparatedSteps(), (2,), "product"),
  "qwen_prm": public_prover(ChatSteps(system=""), (16, 2), "minimum"),
  "plus_minus": public_prover(TaggedSteps(), (2,), "last"),
  "assistant_plus": public_prover(
    TurnSteps(system=""), (2,), "last", offset=-1
  ),
  "v_head": public_prover(SKYWORK, (1,), "last"),
  "implicit": log_ratio_prover(),
}

# Completions without chance, so that they do not depend on who asks for them.
GREEDY = dataclasses.replace(POLICY, temperature=0.0)
EXACT = ClosedForm(PROBLEM.teacher_values)
OF_ONE_SAMPLE = {
  "closed form": EXACT,
  "within the limit": WithinLimit(EXACT, PROBLEM, max_new_tokens=11),
  "Monte Carlo": MonteCarlo(PROBLEM, 2, GREEDY, PARAMS),
  "on-policy Monte Carlo": MonteCarlo(PROBLEM, 2),
  "verifier": verifier(),
  "verifier of what is well formed": WellFormed(verifier(), PROBLEM),
}
OF_TEXT = {
  name: made
  for one, prover in OF_ONE_SAMPLE.items()
  for name, made in (
    (one, prover),
    (f"Best-of-3, {one}", BestOfK(prover, 3)),
    (f"adaptive, {one}", AdaptiveK(prover, (1, 4, 16))),
  )
} | PUBLIC


class Demonstrator(ProblemPolicy):
  """A policy that samples the demonstrations."""

  def sample(self, *args, **options):
    return jax.tree.map(jnp.asarray, ROLLOUT)


def values_of_reinforcement_learning(prover):
  """The values that credit is made of in training, and the prover's key."""
  seen = []

  def estimator(rollout, q, groups=None):
    seen.append(q)
    return jnp.zeros_like(q[:, 1:])

  arm = Arm("arm", estimator, Gradient("sgd", 1.0), prover)
  policy = Demonstrator(POLICY, PROBLEM)
  trainer = Trainer(arm, policy, PROBLEM, Hosted(), 8, 1)
  state = trainer.init_state(KEY, PARAMS)
  trainer.iterate(state, PARAMS, KEY, trainer.turn(0))
  return seen[0], jax.random.fold_in(KEY, 1)


@pytest.mark.parametrize("name", OF_TEXT)
def test_reinforcement_learning_and_search_get_the_same_values(
  name, monkeypatch
):
  prover = OF_TEXT[name]
  monkeypatch.setattr(rl_placement, "learn", rl_learning.learn)  # not traced
  in_training, key = values_of_reinforcement_learning(prover)
  alone = np.asarray(prover.with_policy(POLICY, PARAMS)(key, ROLLOUT))
  assert alone.shape == ROLLOUT.prefix_len.shape and np.ptp(alone) > 0.01
  np.testing.assert_allclose(in_training, alone, atol=1e-6)
  # And search, wherever the prover stands.
  searched = prover.with_policy(POLICY, PARAMS)
  q_policy, q_prover = value_function(searched)(key, ROLLOUT)
  np.testing.assert_allclose(q_policy, alone, atol=1e-6)
  np.testing.assert_allclose(q_prover, alone, atol=1e-6)
  q_policy, q_prover = value_function(EXACT, searched)(key, ROLLOUT)
  np.testing.assert_allclose(q_policy, EXACT(None, ROLLOUT), atol=1e-6)
  np.testing.assert_allclose(q_prover, alone, atol=1e-6)


@pytest.mark.parametrize(
  "name", [name for name in OF_TEXT if "on-policy" not in name]
)
def test_a_search_is_guided_by_the_values_of_its_provers(name):
  """What beams have been worth is what the prover says of them afterwards."""
  values = value_function(OF_TEXT["closed form"], OF_TEXT[name])

  def run():
    result = search(
      POLICY,
      PARAMS,
      values,
      KEY,
      PROBLEM.prompts(IDS),
      PROBLEM.prompt_lengths(IDS),
      IDS,
      settings=Settings(num_beams=2, num_candidates=2, num_steps=2),
      alpha=0.5,
    )
    return jax.tree.map(np.asarray, result)

  if "adaptive" in name:
    with pytest.raises(ValueError, match="a search takes BestOfK"):
      run()
    return
  result = run()
  rollout = jax.tree.map(lambda x: x.reshape(16, *x.shape[2:]), result.rollout)
  length = rollout.prefix_len
  ended = np.asarray(POLICY.has_ended(rollout))[:, None]
  cut = ~ended & (length == length[:, -1:])
  assert cut.any() and not cut[:, -1].all()
  for q, prover in (
    (result.q_policy, OF_TEXT["closed form"]),
    (result.q_prover, OF_TEXT[name]),
  ):
    want = np.where(cut, 0.0, base.values(prover, KEY, rollout))
    np.testing.assert_allclose(q.reshape(want.shape), want, atol=1e-5)


PLANTED = Planted(planted=(1, 2), length=4, vocab_size=4)
MADE = MadePolicy(PLANTED, hidden=(6, 5))
PURE = {
  "procedural": Procedural(PLANTED, 4.0),
  "Monte Carlo": MonteCarlo(PLANTED, 8),
  "importance sampling": ImportanceSampling(PLANTED, Procedural(PLANTED), 8),
}


@pytest.mark.parametrize("name", PURE)
@pytest.mark.parametrize(
  "wrap", [lambda x: x, lambda x: BestOfK(x, 3), lambda x: AdaptiveK(x, (1, 4))]
)
def test_pure_provers_say_the_same_inside_of_a_compiled_program(name, wrap):
  params = MADE.init(jax.random.key(2))
  ids = np.zeros(32, np.int32), np.arange(32, dtype=np.int32)
  rollout = jax.jit(Procedural(PLANTED).sample)(KEY, *ids)
  rollout = dataclasses.replace(rollout, outcome=PLANTED.grade(rollout))
  prover = wrap(PURE[name]).with_policy(MADE, params)
  assert prover.placement == "device"
  # As reinforcement learning has it, with everything else in one program.
  reward = EffectiveReward(2.0)
  weights = jax.jit(lambda key, rollout: reward(rollout, prover(key, rollout)))(
    KEY, rollout
  )
  q_policy, q_prover = value_function(prover)(KEY, rollout)
  np.testing.assert_array_equal(q_policy, q_prover)
  assert np.ptp(q_prover) > 0.1
  want = np.asarray(rollout.outcome)[:, None]
  want = want + 2 * np.diff(np.asarray(q_prover), axis=1)
  exists = np.diff(np.asarray(rollout.prefix_len)) > 0
  np.testing.assert_allclose(weights, want * exists, atol=1e-5)
