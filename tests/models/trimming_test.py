import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.models import adapters, hf, partitioning, transformer, trimming
from pav_jax.models.partitioning import Layout
from pav_jax.models.transformer_config import (
  KeptTokens,
  Lora,
  TransformerConfig,
)
from pav_jax.policies.language_model import LanguageModel
from pav_jax.rollout import PackedTokens
from pav_jax.training import sft

CONFIG = TransformerConfig(
  vocab_size=24,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  sliding_window=4,
  max_length=24,
  tied=False,
)
KEPT = KeptTokens((17, 1, 3, 5, 11, 5))
IDS = np.array([1, 3, 5, 11, 17])
TOKENS = jnp.asarray(np.random.default_rng(0).integers(24, size=(4, 9)))
apply = jax.jit(transformer.apply, static_argnums=0)


@pytest.fixture(scope="module")
def whole():
  return jax.jit(transformer.init, static_argnums=0)(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def trimmed(request, whole):
  config = dataclasses.replace(CONFIG, tied=request.param)
  params = {name: x for name, x in whole.items()}
  if request.param:
    del params["output"]
  return config, params, *trimming.trim(config, params, KEPT)


def test_logits_are_those_of_the_kept_tokens(trimmed):
  # Texts hold any token: what is not kept can be read and not be said.
  config, params, small, rows = trimmed
  assert small.num_outputs == 5
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), rows)
  assert shapes == jax.tree.map(
    lambda x: (x.shape, x.dtype), transformer.shapes(small)
  )
  assert not np.isin(TOKENS, IDS).all()
  got, want = apply(small, rows, TOKENS), apply(config, params, TOKENS)
  np.testing.assert_allclose(got, want[..., IDS], rtol=0, atol=1e-6)


def test_restoring_gives_all_rows_back(trimmed):
  config, params, small, rows = trimmed
  again, restored = trimming.restore(small, rows)
  assert again == config
  jax.tree.map(np.testing.assert_array_equal, restored, params)
  # Rows of kept tokens are those that were trained, others as before.
  changed = rows | {"embedding": rows["embedding"] + 1}
  _, restored = trimming.restore(small, changed)
  expected = np.array(params["embedding"])
  expected[IDS] += 1
  np.testing.assert_array_equal(restored["embedding"], expected)
  assert trimming.restore(config, params) == (config, params)


def policy_of(config):
  return LanguageModel(config, 1, [t == 3 for t in range(24)], 8, 3)


def test_samples_say_kept_tokens_and_how_likely_they_were(whole):
  config, rows = trimming.trim(CONFIG, whole, KEPT)
  rollout = policy_of(config).sample(
    rows,
    jax.random.key(0),
    np.array([[2, 5, 7], [2, 9, 0]], np.int32),
    np.array([3, 2], np.int32),
    np.arange(2, dtype=np.int32),
    num_samples=8,
  )
  said = np.arange(11) < np.asarray(rollout.prefix_len[:, -1:])
  said &= np.arange(11) >= np.asarray(rollout.prefix_len[:, :1])
  assert set(np.asarray(rollout.tokens)[said]) == set(IDS)
  # log p(token | it is kept) = log p(token) - log p(it is kept), by the whole
  # network.
  logp = jax.nn.log_softmax(apply(CONFIG, whole, rollout.tokens)[:, :-1])
  kept = jax.nn.logsumexp(logp[..., IDS], axis=-1)
  picked = jnp.take_along_axis(logp, rollout.tokens[:, 1:, None], axis=-1)
  expected = np.where(said[:, 1:], picked[..., 0] - kept, 0.0)
  np.testing.assert_allclose(rollout.logp[:, 1:], expected, atol=1e-4)
  full_pass = jax.jit(policy_of(config).logp)(rows, rollout)
  np.testing.assert_allclose(full_pass[:, 1:], expected, atol=1e-4)


def test_what_is_not_kept_is_never_said(whole):
  config, rows = trimming.trim(CONFIG, whole, KEPT)
  places = transformer.places(config, jnp.array([3, 4, 17]))
  np.testing.assert_array_equal(places, [1, 5, 4])
  batch = PackedTokens(
    TOKENS[:1] * 0 + 4,
    jnp.ones((1, 9), int),
    jnp.arange(9)[None],
    jnp.ones((1, 9), bool),
  )
  loss = jax.jit(sft.loss, static_argnums=0)(config, rows, batch)
  assert not np.isfinite(loss)
  with pytest.raises(ValueError, match="end_token is 1, expected one of"):
    policy_of(dataclasses.replace(CONFIG, kept=KeptTokens((2, 3))))


@pytest.mark.parametrize("lora", [None, Lora(2, 4.0, ("up",))])
def test_training_leaves_the_rows_of_all_tokens(whole, lora):
  config, rows = trimming.trim(CONFIG, whole, KEPT)
  if lora is not None:
    config, rows = adapters.add(config, rows, lora, jax.random.key(1))
  layout = Layout(partitioning.make_mesh(devices=jax.devices()[:1]))
  fitter = sft.fitter(config, sft.AdamW()(1e-2), layout)
  state = fitter.init(jax.tree.map(jnp.copy, rows))
  batch = PackedTokens(
    jnp.asarray(IDS)[TOKENS % 5],
    jnp.ones_like(TOKENS),
    jnp.broadcast_to(jnp.arange(9), (4, 9)),
    jnp.ones(TOKENS.shape, bool),
  )
  new, metrics = jax.jit(fitter.step)(state, batch)
  assert np.isfinite(metrics["loss"])
  moments = {x.shape for x in jax.tree.leaves(new.optimizer)}
  assert (24, 16) not in moments
  _, restored = trimming.restore(*adapters.merge(config, new.network))
  others = np.setdiff1d(np.arange(24), IDS)
  for name in ("embedding", "output"):
    moved = np.asarray(restored[name] != whole[name]).any(axis=1)
    assert not moved[others].any()
    assert moved[IDS].all() == (lora is None)
    assert moved[IDS].any() == (lora is None)


def test_rows_have_to_divide_over_the_mesh():
  layout = Layout(partitioning.make_mesh(4, 1, 2))
  whole = dataclasses.replace(CONFIG, num_kv_heads=2)
  params = transformer.init(whole, jax.random.key(0))
  with pytest.raises(ValueError, match=r"'embedding'.* has 'vocab' of size 5"):
    trimming.trim(whole, params, KEPT, layout=layout)
  config, rows = trimming.trim(
    whole, params, KeptTokens((1, 2, 3, 4)), layout=layout
  )
  where = transformer.shardings(config, layout)
  assert rows["embedding"].sharding == where["embedding"]


def test_files_have_all_rows_or_are_not_written(whole, tmp_path):
  config, rows = trimming.trim(CONFIG, whole, KEPT)
  with pytest.raises(ValueError, match=r"kept KeptTokens.*expected neither"):
    hf.save(tmp_path / "trimmed", config, rows)
  with pytest.raises(ValueError, match=r"has lora Lora.*expected neither"):
    hf.save(tmp_path / "a", dataclasses.replace(CONFIG, lora=Lora()), whole)


@pytest.mark.parametrize("ids", [(), (-1, 3)])
def test_bad_tokens_are_refused(ids):
  with pytest.raises(ValueError, match="kept tokens are"):
    KeptTokens(ids)


def test_tokens_beyond_the_vocabulary_are_refused():
  with pytest.raises(ValueError, match=r"token 24 is kept, .* vocab_size, 24"):
    dataclasses.replace(CONFIG, kept=KeptTokens((3, 24)))
