"""Which problems rejection fine-tuning reads, and what it fine-tunes on."""

import dataclasses

import jax
import numpy as np
import pytest

from pav_jax.data.packing import Demonstrations
from pav_jax.models import hf, partitioning, transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies.language_model import LanguageModel
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.runs import rejection
from pav_jax.training import correct_responses
from pav_jax.training.validation import FinetuneEvaluationConfig

# Half of the teacher's responses are wrong.
PROBLEM = Chain(
  horizon=2,
  modulus=4,
  operations=(dataclasses.replace(Chain().operations[0], error=0.3),),
  rho=0.0,
)
CONFIG = TransformerConfig(
  vocab_size=16,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  sliding_window=16,
  max_length=32,
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
  """A checkpoint of random parameters."""
  path = tmp_path_factory.mktemp("rejection") / "policy"
  side = identity(PROBLEM.vocabulary, PROBLEM.delimiter)
  params = transformer.init(CONFIG, jax.random.key(0))
  hf.save(path, CONFIG, params, identity=side)
  return str(path)


@pytest.fixture
def reads(monkeypatch):
  """Ids of the problems of each call; the teacher answers for the policy."""
  reads = []

  def sample(
    self, params, key, prompts, lengths, ids, *, num_samples, first_sample=0
  ):
    del params, key, prompts, lengths
    reads.append((set(ids.tolist()), self.config))
    sample_id = np.tile(np.arange(num_samples, dtype=np.int32), len(ids))
    return PROBLEM.demonstrations(np.repeat(ids, num_samples), sample_id)

  monkeypatch.setattr(LanguageModel, "sample", sample)
  return reads


def run(workdir, policy, **changes):
  batches = Demonstrations(
    PROBLEM, num_rows=4, row_length=18, split="validation"
  )
  settings = {
    "policy": policy,
    "problem": PROBLEM,
    "evaluation": FinetuneEvaluationConfig(
      batches,
      every=1,
      num_problems=3,
      num_samples=2,
      ks=(2,),
      num_batches=1,
      test_problems=5,
      test_samples=2,
      test_ks=(2,),
    ),
    "num_problems": 7,
    "num_samples": 4,
    "num_steps": 2,
    "learning_rate": 1e-3,
    "num_rows": 4,
    "row_length": 18,
    "chunk": 2,
    "mesh": partitioning.make_mesh(devices=jax.devices()[:1]),
  }
  settings = rejection.RejectionSettings(**(settings | changes))
  return rejection.rejection_finetune(workdir, "test", settings)


def ids_of(split, number):
  return set(PROBLEM.problem_ids(split, 0, number).tolist())


def test_learns_from_train_chooses_by_validation_and_ends_with_test(
  policy, reads, tmp_path
):
  run(tmp_path, policy)
  expected = [("train", 7), ("validation", 3), ("validation", 3)]
  expected += [("test", 5), ("test", 5)]  # samples and greedy responses
  assert [ids for ids, _ in reads] == [ids_of(*part) for part in expected]
  learnt = correct_responses.load(tmp_path / correct_responses.FILE)
  assert learnt.outcome.all()
  assert set(learnt.problem_id.tolist()) <= ids_of("train", 7)
  # What is there is not sampled again.
  del reads[:]
  run(tmp_path, policy)
  assert [ids for ids, _ in reads] == [ids_of("test", 5)] * 2


@pytest.mark.parametrize(
  "precision",
  [
    {"dtype": "float32", "param_dtype": "float32", "remat": "none"},
    {"dtype": "bfloat16", "param_dtype": "float32", "remat": "full"},
    {"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "dots"},
  ],
  ids=lambda precision: precision["remat"],
)
def test_samples_and_trains_in_the_precision_of_the_settings(
  policy, reads, tmp_path, monkeypatch, precision
):
  """float32 without rematerialisation is what a checkpoint says by default."""
  trained = []

  def finetune(workdir, experiment, settings):
    params = settings.init_params(settings.policy, jax.random.key(0), LAYOUT)
    trained.append((settings.policy.config, params["embedding"].dtype))
    return {}

  monkeypatch.setattr(rejection, "finetune", finetune)
  changes = {} if precision["remat"] == "none" else precision
  run(tmp_path, policy, **changes)
  ((config, dtype),) = trained
  for name, value in precision.items():
    assert getattr(config, name) == getattr(reads[0][1], name) == value
  assert dtype == precision["param_dtype"]


LAYOUT = partitioning.Layout(partitioning.make_mesh(devices=jax.devices()[:1]))


def test_bad_settings(policy, tmp_path):
  for name in ("num_problems", "num_samples", "num_rows", "row_length"):
    with pytest.raises(ValueError, match=f"{name} is 0"):
      run(tmp_path, policy, **{name: 0})
