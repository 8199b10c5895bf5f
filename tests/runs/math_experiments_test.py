"""The experiments on MATH: the paper's settings, and shapes at full size.

Nothing is executed: gin resolves every binding, and `jax.eval_shape` traces
what a run does with the network of the size in its name.
"""

import dataclasses
import functools
import itertools
import pathlib
from types import SimpleNamespace

import gin
import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("sentencepiece")

from benchmarks import rehearsal_inputs
from pav_jax.cli import configuration
from pav_jax.models import transformer
from pav_jax.models import value_network as network
from pav_jax.models.presets import PRESETS, preset
from pav_jax.models.value_network import VerifierConfig
from pav_jax.policies.for_problem import ProblemPolicy
from pav_jax.problems.mathematics import MATH
from pav_jax.problems.prompt_format import Record
from pav_jax.problems.vocabulary import identity
from pav_jax.provers import base as provers
from pav_jax.provers import verifier as provers_verifier
from pav_jax.provers.base import PolicyValues
from pav_jax.provers.verifier import Verifier
from pav_jax.rollout import PackedTokens, Rollout
from pav_jax.training import rl_learning, sft, value_fitting
from pav_jax.training.baselines import LearnedBaseline
from pav_jax.training.labelling import Examples
from pav_jax.training.learning_rate import LearningRateSchedule
from pav_jax.training.rl import Trainer
from pav_jax.training.rl_learning import Experience
from pav_jax.training.rl_placement import Hosted

ROOT = pathlib.Path(__file__).parents[2]
SIZES = ("2b", "9b", "27b")
# As gin/models says; published by Hugging Face with tied embeddings.
PARAMETERS = {
  "2b": 2_614_341_888,
  "9b": 9_241_705_984,
  "27b": 27_227_128_320,
}
FINETUNE_RATE = {"2b": 5e-6, "9b": 5e-6, "27b": 5e-7}
ALPHA = {"2b": 5.0, "9b": 3.0, "27b": 3.0}
ITERATIONS = {"2b": 10_000, "9b": 5000, "27b": 5000}
ROWS, PROMPT, RESPONSE = 32, 256, 512  # the paper's batch
PRECISION = {"dtype": "bfloat16", "param_dtype": "float32", "remat": "full"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A vocabulary, and a verifier that stands for all of them."""
  out = tmp_path_factory.mktemp("math")
  texts = rehearsal_inputs.make_math(out / "math", train=4, test=4)
  rehearsal_inputs.make_vocabulary(out / "tokenizer.model", texts * 20)
  config = preset("tiny", vocab_size=384, num_layers=2, width=8, mlp_width=8)
  problem = rehearsal_inputs.make_problem(out)
  key = jax.random.key(0)
  trunk = transformer.init(config, key)
  params = network.init(VerifierConfig(config, 0), trunk, key)
  provers_verifier.save(
    out / "verifier",
    VerifierConfig(config, 0),
    params,
    identity=identity(problem.vocabulary, problem.delimiter),
    token_ids={"eos_token_id": 1, "pad_token_id": 0},
  )
  return out


@pytest.fixture
def resolved(files, monkeypatch):
  """`(stage, size) -> what the experiment is called with`."""
  # The data set itself is tested elsewhere, and takes TensorFlow.
  records = [Record(f"{i}", "What?", r"\boxed{1}", "1") for i in range(8)]
  monkeypatch.setattr(
    MATH,
    "records",
    lambda self: dict.fromkeys(("train", "validation", "test"), records),
  )

  def resolve(stage, size):
    file = ROOT / "gin" / "experiments" / f"math_{stage}_gemma2_{size}.gin"
    bindings = [
      f'VOCABULARY="{files}/tokenizer.model"',
      f'MATH_DIR="{files}/math"',
    ]
    if stage in ("sft", "verifier"):
      bindings.append('CHECKPOINT="somewhere"')
    if stage in ("search", "rl"):
      bindings.append(f'VERIFIER="{files}/verifier"')
    if (stage, size) == ("search", "27b"):
      bindings.append(f'PROVER="{files}/verifier"')
    if stage in ("sft", "verifier", "rft", "rl"):
      bindings += ["make_mesh.fsdp=8", "make_mesh.tensor=1"]
    gin.clear_config()
    configuration.parse_gin([str(file)], bindings)
    experiment = gin.get_bindings("run")["experiment"]
    given = gin.get_bindings(experiment)
    return vars(given["settings"]) if "settings" in given else given

  yield resolve
  gin.clear_config()


def config_of(size, **changes):
  return dataclasses.replace(PRESETS[f"gemma2_{size}"], **changes)


def params_of(config):
  return transformer.shapes(config)


def rows(dtype, *sizes):
  return jax.ShapeDtypeStruct((ROWS, *sizes), dtype)


def rollouts(num_tokens, num_steps):
  return Rollout(
    tokens=rows(jnp.int32, num_tokens),
    logp=rows(jnp.float32, num_tokens),
    prefix_len=rows(jnp.int32, num_steps + 1),
    outcome=rows(jnp.float32),
    problem_id=rows(jnp.int32),
    sample_id=rows(jnp.int32),
  )


def same_shapes(a, b):
  def of(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

  return of(a) == of(b)


def check_finetuning(config, optimizer, batches):
  """A step keeps the shapes of parameters and optimiser's state."""
  assert (batches.num_rows, batches.row_length) == (ROWS, PROMPT + RESPONSE)
  length = batches.row_length
  batch = PackedTokens(
    *(rows(jnp.int32, length) for _ in range(3)), rows(jnp.bool_, length)
  )
  params = params_of(config)
  state = sft.FitState(params, jax.eval_shape(optimizer.init, params))
  step = functools.partial(sft.train_step, config, optimizer)
  new, metrics = jax.eval_shape(step, state, batch)
  assert same_shapes(new, state)
  assert metrics["loss"].shape == ()


def check_sampling(policy, problem, *, num_samples):
  """Prompts and responses have room for the paper's lengths."""
  assert problem.prompt_len == PROMPT
  assert policy.max_new_tokens == RESPONSE
  rollout = jax.eval_shape(
    functools.partial(policy.sample, num_samples=num_samples),
    params_of(policy.config),
    jax.random.key(0),
    rows(jnp.int32, PROMPT),
    rows(jnp.int32),
    rows(jnp.int32),
  )
  assert rollout.tokens.shape == (ROWS * num_samples, PROMPT + RESPONSE)
  assert rollout.prefix_len.shape[1] == problem.max_steps + 1


@pytest.mark.parametrize("size", SIZES)
def test_finetuning(resolved, size):
  given = resolved("sft", size)
  config = given["policy"].config
  assert config == config_of(size, dtype="bfloat16", remat="full")
  leaves = jax.tree.leaves(params_of(config))
  assert sum(leaf.size for leaf in leaves) == PARAMETERS[size]
  assert given["init_params"].path == "somewhere"
  (stage,) = given["stages"]
  assert (stage.num_steps, stage.warmup_steps) == (5000, 500)
  assert stage.learning_rate == FINETUNE_RATE[size]
  assert given["evaluation"].test_problems == 500
  optimizer = given["optimizer"](stage.learning_rates)
  check_finetuning(config, optimizer, stage.batches)


@pytest.mark.parametrize("size", SIZES)
def test_collection(resolved, size):
  given = resolved("collect", size)
  strategy = given["strategy"]
  assert strategy.num_completions == 20
  assert given["policy"] == f"out/math_sft_gemma2_{size}/policy"
  # Six steps in a response make the 300,000 labels of the paper, nearly.
  assert given["num_problems"] * strategy.num_seeds * 6 > 290_000
  precision = {name: given[name] for name in PRECISION}
  assert precision == PRECISION | {"param_dtype": "bfloat16"}
  config = config_of(size, **precision)
  policy = given["make_policy"](config, given["problem"])
  check_sampling(policy, given["problem"], num_samples=strategy.num_seeds)


@pytest.mark.parametrize("size", SIZES)
def test_verifier(resolved, size):
  given = resolved("verifier", size)
  schedule, backbone = given["schedule"], given["backbone"]
  assert (schedule.num_steps, schedule.warmup_steps) == (20_000, 2000)
  assert (schedule.learning_rate, schedule.batch_size) == (5e-7, ROWS)
  assert given["labels"].balanced
  assert given["data"] == f"out/math_collect_gemma2_{size}/targets"
  assert {x: getattr(backbone, x) for x in PRECISION} == PRECISION
  # All of them start from 9B.
  config = VerifierConfig(
    config_of("9b", dtype=backbone.dtype, remat=backbone.remat),
    given["reader_layers"],
  )
  optimizer = schedule.optimizer(given["optimizer"])
  params = network.shapes(config)
  state = sft.FitState(params, jax.eval_shape(optimizer.init, params))
  steps = given["problem"].max_steps
  batch = Examples(
    tokens=rows(jnp.int32, PROMPT + RESPONSE),
    prefix_len=rows(jnp.int32, steps + 1),
    label=rows(jnp.float32, steps + 1),
    weight=rows(jnp.float32, steps + 1),
    imitated=rows(jnp.bool_, steps),
  )
  step = functools.partial(value_fitting.train_step, config, optimizer)
  new, metrics = jax.eval_shape(step, state, batch)
  assert same_shapes(new, state)
  assert metrics["loss"].shape == ()


@pytest.mark.parametrize("size", SIZES)
def test_search(resolved, size):
  given = SimpleNamespace(**resolved("search", size))
  problem, tuning = given.problem, given.tuning
  # App. C: α on a grid from 0 to 1, with 16 beams; 3 candidates.
  assert tuning.alphas == tuple(i / 10 for i in range(11))
  assert tuning.num_beams == 16
  assert all(arm.num_candidates == 3 for arm in given.arms)
  made_of = [provers.split(arm.prover) for arm in given.arms]
  whose = [inner for inner, _ in made_of if inner != PolicyValues()]
  ks = [wrapper.k for _, wrappers in made_of for wrapper in wrappers]
  assert ks == [4] and len(whose) == (size == "27b")
  # Ours beside the policy's: not the same verifier.
  assert all(inner is not given.verifier for inner in whose)
  assert (given.num_problems, given.num_samples) == (500, 128)
  assert given.dtype == given.verifier.config.trunk.dtype == "bfloat16"
  # The verifier, from 9B, scores all prefixes of what is found in one pass.
  config = VerifierConfig(config_of("9b"), 0)
  params = network.shapes(config)
  q = jax.eval_shape(
    lambda params, rollout: Verifier(params, config)(None, rollout),
    params,
    rollouts(PROMPT + RESPONSE, problem.max_steps),
  )
  assert q.shape == (ROWS, problem.max_steps + 1)


@pytest.mark.parametrize("size", SIZES)
def test_finetuning_on_correct_responses(resolved, size):
  given, first = resolved("rft", size), resolved("sft", size)
  (stage,) = first["stages"]
  for name in ("num_steps", "warmup_steps", "learning_rate"):
    assert given[name] == getattr(stage, name)
  assert repr(given["optimizer"]) == repr(first["optimizer"])
  assert given["policy"] == f"out/math_sft_gemma2_{size}/policy"
  batches = given["evaluation"].batches
  assert given["num_rows"] == batches.num_rows
  assert given["row_length"] == batches.row_length
  precision = {name: given[name] for name in PRECISION}
  assert precision == PRECISION
  optimizer = given["optimizer"](stage.learning_rates)
  check_finetuning(config_of(size, **precision), optimizer, batches)


@pytest.mark.parametrize("size", SIZES)
def test_reinforcement(resolved, size, files):
  given = SimpleNamespace(**resolved("rl", size))
  outcome, progress = given.arms
  assert outcome.credit.reward.alpha == 0 and outcome.prover is None
  assert progress.credit.reward.alpha == ALPHA[size]
  assert progress.credit.reward.negative_weight == 1
  assert progress.prover.k == 4 and progress.num_updates == 1
  # A prover computes in bfloat16, as the policy does.
  assert progress.prover.prover.config.trunk.dtype == "bfloat16"
  assert given.num_iterations == ITERATIONS[size]
  assert given.num_problems * given.num_samples == ROWS
  assert given.schedule == LearningRateSchedule(warmup=0.1)
  for arm in given.arms:
    assert (arm.update.optimizer, arm.update.learning_rate) == ("adam", 1e-7)
    assert arm.update.kl_weight == 0.001
    assert arm.credit.baseline == LearnedBaseline(None, 1e-6)
  start = given.start
  assert start.path == f"out/math_rft_gemma2_{size}/policy"
  assert (start.dtype, start.param_dtype) == ("bfloat16", "float32")
  assert start.remat == "full"
  config = config_of(
    size,
    dtype=start.dtype,
    param_dtype=start.param_dtype,
    remat=start.remat,
  )
  model = start.make_policy(config, given.problem)
  assert model.max_new_tokens == RESPONSE
  policy = ProblemPolicy(model, given.problem)
  trainer = Trainer(progress, policy, given.problem, Hosted(), ROWS, 1)
  _, outer = provers.split_pure(progress.prover)

  def iteration(params, rollout, q):
    state = trainer.init_state(jax.random.key(0), params)
    new, metrics = rl_learning.learn(
      policy,
      (outer, trainer.estimator, progress.update),
      state,
      Experience(rollout, rollout.logp, q),
      1.0,
      num_updates=1,
      num_minibatches=1,
    )
    return vars(state), vars(new), metrics

  state, new, metrics = jax.eval_shape(
    iteration,
    params_of(config),
    rollouts(PROMPT + RESPONSE, model.max_steps),
    rows(jnp.float32, model.max_steps + 1),
  )
  assert same_shapes(new, state)
  assert metrics["loss"].shape == ()


@pytest.mark.parametrize("size", SIZES)
def test_the_prover_is_that_of_the_smallest_base_policy(size):
  """Also for 9B and 27B (Sec. 5), whose own verifiers search has."""
  file = ROOT / "gin" / "experiments" / f"math_rl_gemma2_{size}.gin"
  line = 'VERIFIER = "out/math_verifier_gemma2_2b/verifier"'
  assert line in file.read_text().splitlines()


def test_every_stage_of_every_size_is_there_and_tested():
  names = {
    path.stem for path in (ROOT / "gin" / "experiments").glob("math_*.gin")
  }
  stages = ("sft", "collect", "verifier", "search", "rft", "rl")
  assert names == {
    f"math_{stage}_gemma2_{size}"
    for stage, size in itertools.product(stages, SIZES)
  }
