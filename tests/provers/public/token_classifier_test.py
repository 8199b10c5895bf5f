import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import hf, transformer
from pav_jax.models import value_network as network
from pav_jax.models.presets import preset
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.models.value_network import VerifierConfig
from pav_jax.problems.chain import Chain
from pav_jax.problems.vocabulary import identity
from pav_jax.provers import base, public
from pav_jax.provers.verifier import Verifier

PROBLEM = Chain(horizon=2, modulus=10)
CONFIG = dataclasses.replace(
  preset("qwen2_5_0_5b"),
  vocab_size=24,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=16,
  max_length=64,
  query_pre_attn_scalar=4.0,
  tied=False,
)
PARAMS = network.init(
  VerifierConfig(CONFIG),
  transformer.init(CONFIG, jax.random.key(0)),
  jax.random.key(1),
) | {
  "head": {
    "kernel": jax.random.normal(jax.random.key(1), (16,)),
    "bias": jnp.float32(-0.5),
  },
}
VERIFIER = Verifier(PARAMS, VerifierConfig(CONFIG))
IDENTITY = identity(PROBLEM.vocabulary, PROBLEM.delimiter)
IDS = PROBLEM.problem_ids("test", 0, 4)
ROLLOUT = PROBLEM.demonstrations(IDS, np.zeros_like(IDS))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  folder = tmp_path_factory.mktemp("exported")
  tokenizer = folder / "tokenizer.json"
  tokenizer.write_text("{}")
  public.export(
    folder / "verifier",
    VERIFIER.config,
    PARAMS,
    identity=IDENTITY,
    token_ids={"eos_token_id": 1, "pad_token_id": 0},
    tokenizer_files=[tokenizer],
  )
  return folder / "verifier"


def test_the_files_say_what_they_are(exported):
  fields = hf.read_config(exported)
  assert fields["architectures"] == ["Qwen2ForTokenClassification"]
  assert fields["id2label"] == {"0": "fails", "1": "succeeds"}
  assert (exported / "tokenizer.json").read_text() == "{}"
  names = hf.tensor_names(exported)
  assert "lm_head.weight" not in names and "score.bias" in names


def test_it_comes_back_as_a_reader_of_values(exported):
  reader = public.load(exported)
  assert reader.meaning == "value" and reader.fingerprint is not None
  want = np.asarray(base.values(VERIFIER, None, ROLLOUT))
  scores = reader.scores(ROLLOUT.tokens, ROLLOUT.prefix_len - 1)
  np.testing.assert_allclose(scores, want, atol=1e-5)
  # The bare problem's value is read too, and Chain's tokens are the model's.
  prover = reader.prover(PROBLEM)
  np.testing.assert_allclose(
    base.values(prover, None, ROLLOUT), want, atol=1e-5
  )
  assert np.std(want) > 0.05
  with pytest.raises(ValueError, match="reads tokens with the fingerprint"):
    reader.prover(Chain(horizon=2, modulus=11))


def test_transformers_gives_the_same_scores(exported):
  torch = pytest.importorskip("torch", reason="the extra bench is needed")
  transformers = pytest.importorskip("transformers")
  model = transformers.AutoModelForTokenClassification.from_pretrained(exported)
  with torch.no_grad():
    tokens = torch.tensor(ROLLOUT.tokens, dtype=torch.long)
    probability = model(tokens).logits.softmax(-1)[..., 1].numpy()
  theirs = np.take_along_axis(probability, ROLLOUT.prefix_len - 1, axis=1)
  ours = base.values(VERIFIER, None, ROLLOUT)
  np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_files_are_several_where_one_would_be_too_large(tmp_path, monkeypatch):
  monkeypatch.setattr(hf, "_split", lambda x, *_: [[name] for name in x])
  path = tmp_path / "verifier"
  public.export(path, VERIFIER.config, PARAMS, identity=IDENTITY)
  index = json.loads((path / hf.INDEX).read_text())
  files = {pathlib.Path(file).name for file in index["weight_map"].values()}
  assert len(files) > 10 and index["weight_map"]["score.weight"] in files
  scores = public.load(path).scores(ROLLOUT.tokens, ROLLOUT.prefix_len - 1)
  want = base.values(VERIFIER, None, ROLLOUT)
  np.testing.assert_allclose(scores, want, atol=1e-5)


def test_what_no_token_classifier_has_is_refused_by_name(tmp_path):
  with pytest.raises(
    ValueError, match=r"reader_layers is 2, expected 0: .*surpr"
  ):
    public.export(
      tmp_path / "v", VerifierConfig(CONFIG, 2), PARAMS, identity=IDENTITY
    )
  gemma = dataclasses.replace(preset("tiny"), family="gemma3")
  with pytest.raises(ValueError, match="family is gemma3, and"):
    public.export(
      tmp_path / "v", VerifierConfig(gemma), PARAMS, identity=IDENTITY
    )
  assert isinstance(gemma, TransformerConfig)
  broken = PARAMS | {"head": PARAMS["head"] | {"bias": jnp.float32(np.nan)}}
  with pytest.raises(FloatingPointError, match="parameters"):
    public.export(tmp_path / "v", VERIFIER.config, broken, identity=IDENTITY)
  assert not (tmp_path / "v").exists()
