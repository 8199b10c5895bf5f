import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import randomness
from pav_jax.models import hf, next_token, partitioning, transformer
from pav_jax.models.transformer_config import TransformerConfig
from pav_jax.policies import continuing, sampling, suffixes
from pav_jax.policies.language_model import LanguageModel

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "gemma2_tiny"
PAD, END, DELIMITERS = 0, 1, (3, 7)
VOCAB = 12
# A window of 3, which prompts and responses exceed.
CONFIG = TransformerConfig(
  vocab_size=VOCAB,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=24,
  sliding_window=3,
  max_length=64,
)
TABLE = tuple(token in DELIMITERS for token in range(VOCAB))
POLICY = LanguageModel(
  config=CONFIG,
  end_token=END,
  is_delimiter=TABLE,
  max_new_tokens=12,
  max_steps=3,
  temperature=0.8,
  pad_token=PAD,
)
KEY = jax.random.key(3)
# Random tokens after the problems.
PROMPTS = np.random.default_rng(2).integers(VOCAB, size=(4, 9)).astype(np.int32)
PROMPT_LEN = np.array([9, 1, 4, 6], np.int32)
PROBLEM_ID = np.array([5, 0, 8, 2], np.int32)

apply = jax.jit(transformer.apply, static_argnums=0)
token_keys = jax.jit(randomness.token_keys, static_argnums=2)


@pytest.fixture(scope="module")
def params():
  """Far from the start, where scales are 0 and would hide mistakes."""
  shapes = transformer.shapes(CONFIG)
  rng = np.random.default_rng(0)

  def leaf(path, x):
    std = 0.3 if path[-1].key == "scale" else CONFIG.width**-0.5
    return jnp.asarray(std * rng.normal(size=x.shape), x.dtype)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.fixture(scope="module")
def rollout(params):
  """Three samples of each of four problems."""
  return jax.device_get(
    POLICY.sample(params, KEY, PROMPTS, PROMPT_LEN, PROBLEM_ID, num_samples=3)
  )


@pytest.fixture(scope="module")
def completions(params, rollout):
  """Two of each prefix."""
  return jax.device_get(POLICY.complete(params, KEY, rollout, num_samples=2))


def continue_by_full_passes(params, tokens, length, limit, keys):
  """What follows the first `length` tokens: a pass without cache per token."""
  tokens, length = np.array(tokens), np.array(length)
  going = length < limit
  rows = np.arange(len(tokens))
  while going.any():
    logits = apply(CONFIG, params, tokens)[rows, length - 1]
    drawn, _ = randomness.categorical(
      keys[rows, np.minimum(length, keys.shape[1] - 1)],
      logits / POLICY.temperature,
    )
    for row in np.flatnonzero(going):
      tokens[row, length[row]] = drawn[row]
      length[row] += 1
      going[row] = drawn[row] != END and length[row] < limit[row]
  tokens[np.arange(tokens.shape[1]) >= length[:, None]] = PAD
  return tokens


def step_ends(row, prompt_len, length):
  """The documented rule, token by token, in plain Python."""
  ends = [prompt_len]
  for t in range(prompt_len, length):
    if row[t] == END:
      if len(ends) > 1 and ends[-1] == t:
        ends.pop()  # an end token belongs to the step before it
    elif row[t] not in DELIMITERS or len(ends) == POLICY.max_steps:
      continue
    else:
      ends.append(t + 1)
  if ends[-1] < length or len(ends) == 1:
    ends.append(length)
  return (ends + [length] * POLICY.max_steps)[: POLICY.max_steps + 1]


def response_lengths(rollout):
  """Where rows end, found from the tokens alone."""
  lengths = []
  for row, start in zip(rollout.tokens, rollout.prefix_len[:, 0], strict=True):
    response = row[start : start + POLICY.max_new_tokens].tolist()
    size = response.index(END) + 1 if END in response else len(response)
    lengths.append(start + size)
  return lengths


def test_samples_are_those_of_full_passes_without_a_cache(params, rollout):
  ids = np.repeat(PROBLEM_ID, 3), np.tile(np.arange(3), 4).astype(np.int32)
  np.testing.assert_array_equal(rollout.problem_id, ids[0])
  np.testing.assert_array_equal(rollout.sample_id, ids[1])
  tokens = np.pad(np.repeat(PROMPTS, 3, axis=0), ((0, 0), (0, 12)))
  length = np.repeat(PROMPT_LEN, 3)
  keys = token_keys(KEY, ids, 21)
  want = continue_by_full_passes(params, tokens, length, length + 12, keys)
  np.testing.assert_array_equal(rollout.tokens, want)
  # The rows exercise both ways to end.
  size = rollout.prefix_len[:, -1] - length
  assert (size == 12).any() and (size < 12).any()


def test_completions_are_those_of_prefixes_alone(params, rollout, completions):
  # Sharing changes nothing: each row is continued by itself from its prefix.
  b, h, m = (x.reshape(-1) for x in np.indices((12, 4, 2), np.int32))
  ids = rollout.problem_id[b], rollout.sample_id[b], h, m
  np.testing.assert_array_equal(completions.problem_id, ids[0])
  np.testing.assert_array_equal(completions.sample_id, ids[1])
  length = rollout.prefix_len[b, h]
  limit = rollout.prefix_len[b, 0] + 12
  limit[(rollout.tokens[b, length - 1] == END) & (h > 0)] = 0
  keys = token_keys(KEY, ids, 21)
  want = continue_by_full_passes(params, rollout.tokens[b], length, limit, keys)
  np.testing.assert_array_equal(completions.tokens, want)
  given = np.arange(21) < length[:, None]
  np.testing.assert_array_equal(
    completions.tokens[given], rollout.tokens[b][given]
  )
  np.testing.assert_array_equal(completions.logp[given], rollout.logp[b][given])
  # Completions of a prefix differ, and complete responses stay as they are.
  assert (completions.tokens[0] != completions.tokens[1]).any()
  np.testing.assert_array_equal(completions.tokens[h == 3], want[h == 3])
  np.testing.assert_array_equal(completions.tokens[h == 3][::2], rollout.tokens)


def test_steps_are_recorded_as_the_rule_says(rollout, completions):
  joined = 0
  for rows in (rollout, completions):
    lengths = response_lengths(rows)
    for tokens, got, length in zip(
      rows.tokens, rows.prefix_len, lengths, strict=True
    ):
      assert got.tolist() == step_ends(tokens.tolist(), got[0], length)
      last = tokens[length - 2 : length].tolist()
      joined += last[1] == END and last[0] in DELIMITERS
  # Some rows reach the last step, and some end right after a delimiter.
  assert (rollout.prefix_len[:, 2] < rollout.prefix_len[:, 3]).any()
  assert joined


def test_reported_log_probabilities_are_those_of_one_pass(params):
  # Truncation decides what is drawn, and not what is reported.
  policy = dataclasses.replace(POLICY, top_k=6, top_p=0.9)
  rollout = policy.sample(
    params, KEY, PROMPTS, PROMPT_LEN, PROBLEM_ID, num_samples=3
  )
  completions = policy.complete(params, KEY, rollout, num_samples=2)
  for rows in (rollout, completions):
    got = jax.jit(policy.logp)(params, rows)
    np.testing.assert_allclose(got, rows.logp, rtol=0, atol=1e-4)
    logits = np.asarray(apply(CONFIG, params, rows.tokens), np.float64) / 0.8
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    for row, (tokens, ends) in enumerate(
      zip(np.asarray(rows.tokens), np.asarray(rows.prefix_len), strict=True)
    ):
      want = np.zeros(21)
      for t in range(ends[0], ends[-1]):
        want[t] = logits[row, t - 1, tokens[t]]
      np.testing.assert_allclose(got[row], want, rtol=0, atol=1e-4)


def test_log_probabilities_never_need_all_logits(params, rollout, monkeypatch):
  # 12 rows of 20 logits over 12 tokens, in parts of 8, 8 and 4 positions; and
  # the gradient, beside that of one product.
  def value(params):
    logp = POLICY.logp(params, rollout)
    return jnp.sum(logp * jnp.arange(21)), logp

  def run():  # traced anew
    return jax.jit(jax.value_and_grad(lambda x: value(x), has_aux=True))(params)

  (_, want), want_grad = run()
  monkeypatch.setattr(next_token, "MAX_LOGITS", 12 * 8 * 12)
  (_, got), got_grad = run()
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
    *(got_grad, want_grad),
  )
  # With 4096 tokens, all logits of 12 rows take 4 MB. Parts of two positions
  # take 0.4 MB, and exist a few times.
  config = dataclasses.replace(CONFIG, vocab_size=4096)
  policy = dataclasses.replace(
    POLICY, config=config, is_delimiter=[True] * 4096
  )
  monkeypatch.setattr(next_token, "MAX_LOGITS", 12 * 2 * 4096)
  shapes = jax.eval_shape(policy.init, KEY)
  grad = jax.grad(lambda params: jnp.sum(policy.logp(params, rollout)))
  assert peak_bytes(jax.jit(grad).trace(shapes)) < 4 * 12 * 20 * 4096


def test_rows_do_not_depend_on_their_batch(params, rollout):
  rows = rollout.tokens.reshape(4, 3, 21)
  order = np.array([3, 1])
  # Other rows, another order, prompts padded into another bucket.
  wide = np.pad(PROMPTS[order], ((0, 0), (0, 20)), constant_values=6)
  got = POLICY.sample(
    params,
    KEY,
    wide,
    PROMPT_LEN[order],
    PROBLEM_ID[order],
    num_samples=3,
  )
  assert sampling.bucket(9) != sampling.bucket(29)
  assert got.tokens.shape == (6, 41)
  got_rows = np.asarray(got.tokens).reshape(2, 3, 41)
  np.testing.assert_array_equal(got_rows[:, :, :21], rows[order])
  assert (got_rows[:, :, 21:] == PAD).all()
  np.testing.assert_array_equal(
    np.asarray(got.prefix_len).reshape(2, 3, 4),
    rollout.prefix_len.reshape(4, 3, 4)[order],
  )
  # Interrupted after the first sample, and resumed.
  later = POLICY.sample(
    params,
    KEY,
    PROMPTS,
    PROMPT_LEN,
    PROBLEM_ID,
    num_samples=2,
    first_sample=1,
  )
  np.testing.assert_array_equal(
    np.asarray(later.tokens).reshape(4, 2, 21), rows[:, 1:]
  )


@pytest.mark.parametrize(
  ("mesh", "temperature"), [((4, 2, 1), 0.8), ((2, 2, 2), 0.0)]
)
def test_a_mesh_samples_what_one_device_samples(
  mesh, temperature, params, monkeypatch
):
  policy = dataclasses.replace(POLICY, temperature=temperature, num_slots=16)
  layout = partitioning.Layout(partitioning.make_mesh(*mesh))
  spread = dataclasses.replace(policy, layout=layout)
  shardings = transformer.shardings(CONFIG, layout)
  problems = PROMPTS, PROMPT_LEN, PROBLEM_ID
  want = policy.sample(params, KEY, *problems, num_samples=4)
  params_there = jax.device_put(params, shardings)
  got = spread.sample(params_there, KEY, *problems, num_samples=4)
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_allclose(got.logp, want.logp, rtol=0, atol=1e-5)
  # 16 rows of 4 prefixes, of which 16 have slots.
  want = jax.device_get(want)
  completed = policy.complete(params, KEY, want, num_samples=1)
  got = spread.complete(params_there, KEY, want, num_samples=1)
  np.testing.assert_array_equal(got.tokens, completed.tokens)
  # Logits in several parts: of 3 positions of all 16 rows on 8 devices.
  monkeypatch.setattr(next_token, "MAX_LOGITS", 3 * 16 * 12 // 8)
  np.testing.assert_allclose(
    jax.jit(spread.logp)(params_there, want), want.logp, rtol=0, atol=1e-4
  )


def test_devices_share_slots():
  # What the program keeps on each of 4 devices, beside all on one: a quarter of
  # the caches, whose rings of 512 tokens are nearly everything.
  mesh = partitioning.make_mesh(2, 1, 2, devices=jax.devices()[:4])
  layout = partitioning.Layout(mesh)
  one = peak_bytes(lowered(1, 64, 32, max_new_tokens=512))
  each = peak_bytes(lowered(1, 64, 32, max_new_tokens=512, layout=layout))
  assert 0.2 < each / one < 0.4


def test_any_prefixes_of_any_rollouts(params, rollout, completions):
  # Some prefixes of some rollouts, in any order: the same rows.
  chosen = np.array([7, 2], np.int32)
  prefixes = np.array([[2, 0], [1, 1]], np.int32)
  some = jax.tree.map(lambda x: x[chosen], rollout)
  got = POLICY.complete(params, KEY, some, num_samples=2, prefixes=prefixes)
  rows = completions.tokens.reshape(12, 4, 2, 21)
  np.testing.assert_array_equal(
    np.asarray(got.tokens).reshape(2, 2, 2, 21),
    rows[chosen[:, None], prefixes],
  )
  # Inside another program, where lengths are not known.
  traced = jax.jit(functools.partial(POLICY.complete, num_samples=2))
  np.testing.assert_array_equal(
    traced(params, KEY, rollout).tokens, completions.tokens
  )
  # A cap on new tokens cuts rows short.
  short = POLICY.complete(params, KEY, rollout, num_samples=2, max_new_tokens=3)
  given = np.repeat(rollout.prefix_len.reshape(-1), 2)[:, None]
  want = np.where(np.arange(21) < given + 3, completions.tokens, PAD)
  np.testing.assert_array_equal(short.tokens, want)
  np.testing.assert_array_equal(
    short.prefix_len[:, -1],
    np.minimum(completions.prefix_len[:, -1], given[:, 0] + 3),
  )


def test_partial_responses_are_taken_up_where_they_end(params, rollout):
  # Cut after the first step, so that prefixes 1 to 3 are the same text. Their
  # completions continue the count of steps from 1.
  ends = rollout.prefix_len[:, :2]
  partial = dataclasses.replace(
    rollout,
    tokens=np.where(np.arange(21) < ends[:, 1:], rollout.tokens, 9),
    prefix_len=np.concatenate([ends, ends[:, 1:], ends[:, 1:]], axis=1),
  )
  got = jax.device_get(POLICY.complete(params, KEY, partial, num_samples=1))
  lengths = response_lengths(got)
  for tokens, prefix_len, length in zip(
    got.tokens, got.prefix_len, lengths, strict=True
  ):
    want = step_ends(tokens.tolist(), prefix_len[0], length)
    assert prefix_len.tolist() == want


def test_slots_after_the_end_are_padding(rollout, completions):
  for rows in (rollout, completions):
    past = np.arange(21) >= rows.prefix_len[:, -1:]
    assert (rows.tokens[past] == PAD).all()
    assert (rows.logp[past] == 0).all()
    problem = np.arange(21) < rows.prefix_len[:, :1]
    assert (rows.logp[problem] == 0).all()
    assert (rows.logp[~past & ~problem] < 0).all()
    assert np.isnan(rows.outcome).all()


def test_rings_that_grow_lose_nothing(params):
  # Responses of up to 40 tokens, whose rings have 16, 32 and 48 places if all
  # rows begin together and 48 if some wait: the same rows, and the
  # log-probabilities of one pass.
  policy = dataclasses.replace(POLICY, max_new_tokens=40, end_token=5)
  together, waiting = (
    dataclasses.replace(policy, num_slots=slots).sample(
      params, KEY, PROMPTS, PROMPT_LEN, PROBLEM_ID, num_samples=6
    )
    for slots in (24, 8)
  )
  np.testing.assert_array_equal(together.tokens, waiting.tokens)
  for rows in (together, waiting):
    want = jax.jit(policy.logp)(params, rows)
    np.testing.assert_allclose(rows.logp, want, rtol=0, atol=1e-4)
  # Some rows end in each of the rings.
  size = np.asarray(together.prefix_len[:, -1]) - np.repeat(PROMPT_LEN, 6)
  assert {0, 1, 2} <= set(((size - 2) // 16).tolist())


@pytest.mark.parametrize("num_slots", [1, 4, 9])
def test_rows_that_wait_for_slots_are_the_same(
  num_slots, params, rollout, completions
):
  # 12 samples in 1 to 9 slots, and 96 completions, more of them complete
  # already than there are slots: more rows than slots, in lanes of several
  # texts and one after the other.
  policy = dataclasses.replace(POLICY, num_slots=num_slots)
  got = policy.sample(
    params, KEY, PROMPTS, PROMPT_LEN, PROBLEM_ID, num_samples=3
  )
  np.testing.assert_array_equal(got.tokens, rollout.tokens)
  np.testing.assert_allclose(got.logp, rollout.logp, rtol=0, atol=1e-5)
  got = policy.complete(params, KEY, rollout, num_samples=2)
  np.testing.assert_array_equal(got.tokens, completions.tokens)
  np.testing.assert_array_equal(got.prefix_len, completions.prefix_len)


def test_useful_slots_by_hand(rollout):
  # Rows of 1, 3, 6, 2 new tokens of one text: 0, 2, 5, 1 after the first, in
  # one slot each. Five times 4 slots give 8 tokens.
  rows = jax.tree.map(lambda x: x[:4], rollout)
  ends = np.array([2, 4, 7, 3])[:, None]
  rows = dataclasses.replace(rows, prefix_len=np.maximum([[1, 2, 2, 2]], ends))
  useful = functools.partial(continuing.useful_slots, rows, np.ones(4, int), 4)
  assert useful(num_slots=4) == pytest.approx(8 / 20)
  # A slot that rows take turns in is always busy.
  assert useful(num_slots=1) == 1
  # Two devices have a lane each; that of the other one is empty.
  mesh = partitioning.make_mesh(devices=jax.devices()[:2])
  layout = partitioning.Layout(mesh)
  assert useful(num_slots=4, layout=layout) == pytest.approx(8 / 40)
  none = dataclasses.replace(rows, prefix_len=np.ones((4, 4), int))
  assert continuing.useful_slots(none, np.ones(4, int), 4, num_slots=4) == 0


def exact_probabilities(logits, temperature, top_k, top_p):
  """By sorting, in float64."""
  probs = np.exp(np.asarray(logits, np.float64) / temperature)
  order = np.argsort(-probs)
  kept = order[: top_k or VOCAB]
  total, chosen = 0.0, []
  for token in kept:
    if total < top_p:
      chosen.append(token)
      total += probs[token] / probs[kept].sum()
  out = np.zeros(VOCAB)
  out[chosen] = probs[chosen] / probs[chosen].sum()
  return out


@pytest.mark.parametrize(
  ("temperature", "top_k", "top_p"),
  [(1.0, None, 1.0), (0.5, 4, 1.0), (2.0, None, 0.6), (1.0, 5, 0.7)],
)
def test_frequencies_are_the_probabilities(params, temperature, top_k, top_p):
  policy = dataclasses.replace(
    POLICY,
    max_new_tokens=1,
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
  )
  num = 8192
  rollout = policy.sample(
    params, KEY, PROMPTS[:1], PROMPT_LEN[:1], PROBLEM_ID[:1], num_samples=num
  )
  counts = np.bincount(np.asarray(rollout.tokens)[:, 9], minlength=VOCAB)
  logits = apply(CONFIG, params, PROMPTS[:1])[0, 8]
  want = exact_probabilities(logits, temperature, top_k, top_p)
  assert (counts[want == 0] == 0).all()
  if top_k or top_p < 1:
    assert (want == 0).any()
  # Five standard deviations of a binomial frequency.
  deviation = 5 * np.sqrt(want * (1 - want) / num) + 1e-9
  assert (abs(counts / num - want) <= deviation).all()


def test_ties_are_kept():
  logits = jnp.log(jnp.array([0.4, 0.2, 0.2, 0.1, 0.1]))
  for top_k, top_p, kept in [
    (2, 1.0, 3),  # the second and the third are equal
    (None, 0.5, 3),  # 0.4 is not enough, 0.4 + 0.2 is
    (None, 0.3, 1),
    (1, 0.99, 1),
    (9, 1.0, 5),
  ]:
    got = jnp.isfinite(sampling.truncate(logits, top_k, top_p))
    assert got.tolist() == [True] * kept + [False] * (5 - kept)


def test_greedy_continuations_are_those_of_the_reference():
  config, params = hf.load(GOLDEN)
  expected = np.load(GOLDEN / "expected.npz")
  policy = LanguageModel(
    config=config,
    end_token=0,  # the reference was told to go on
    is_delimiter=[token == 5 for token in range(config.vocab_size)],
    max_new_tokens=16,
    max_steps=4,
    temperature=0.0,
  )
  prompts = expected["greedy_prompt"].astype(np.int32)
  rollout = policy.sample(
    params,
    KEY,
    prompts,
    np.full(3, 8, np.int32),
    np.arange(3, dtype=np.int32),
    num_samples=2,
  )
  tokens = np.asarray(rollout.tokens).reshape(3, 2, 24)
  np.testing.assert_array_equal(tokens[:, 0], expected["greedy"])
  np.testing.assert_array_equal(tokens[:, 1], expected["greedy"])
  # At temperature 0, log-probabilities are those at temperature 1.
  logits = np.asarray(expected["greedy"], np.int32)
  logits = jax.nn.log_softmax(apply(config, params, logits))
  want = np.take_along_axis(logits[:, 7:-1], tokens[:, 0, 8:, None], axis=-1)
  np.testing.assert_allclose(
    np.asarray(rollout.logp)[::2, 8:], want[..., 0], rtol=0, atol=1e-4
  )


def lowered(
  num_prefixes,
  num_rows,
  length,
  num_slots=1000,
  max_new_tokens=4,
  layout=None,
):
  """The traced program of M rows for each of Q prefixes of two texts."""
  shapes = transformer.shapes(CONFIG)
  keys = jax.eval_shape(
    lambda: jnp.broadcast_to(KEY, (2, num_prefixes * num_rows))
  )
  run = functools.partial(
    suffixes.decode_suffixes,
    CONFIG,
    max_new_tokens=max_new_tokens,
    end_token=END,
    temperature=1.0,
    top_k=None,
    top_p=1.0,
    num_slots=num_slots,
    layout=layout,
  )
  at = jax.ShapeDtypeStruct((2, num_prefixes), jnp.int32)
  tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)
  return jax.jit(run).trace(shapes, keys, tokens, at, at)


def peak_bytes(traced):
  return traced.lower().compile().memory_analysis().temp_size_in_bytes


def test_shared_caches_are_not_copied_for_rows():
  length = 512
  # Keys and values of K = 2 heads of 4 in 2 layers, in float32.
  cache_bytes = 2 * 2 * 2 * 4 * 4 * length
  few, many = lowered(3, 16, length), lowered(3, 64, length)
  # 2 · 3 · 48 more rows. A row has a logit and a weight for N heads and S
  # positions in one layer at a time, which may exist together.
  rows = 2 * 3 * 48
  weights = 4 * 4 * length
  grown = (peak_bytes(many) - peak_bytes(few)) / rows
  assert grown < 2.5 * weights + 4096
  assert 2.5 * weights + 4096 < cache_bytes / 2
  # Nor does any array hold keys or values for rows and positions of the text.
  text = str(many.jaxpr)
  assert f"[2,2,4,{length}]" in text  # [G, K, H, S] of a group
  for rows in ("2,192", "384", "2,3,64", "2,2,192"):
    for last in (f"2,{length},4", f"{length},2,4", f"4,{length}"):
      assert f"[{rows},{last}]" not in text
    assert f"[{rows},{length},4]" not in text


def test_rows_that_wait_take_no_memory_but_their_tokens():
  # Both have 8 slots for each of two texts. 2 · 192 more rows have 4 tokens and
  # log-probabilities, their copies, a key and some numbers each; a slot alone
  # has 2 · 2 · 2 · 4 · 4 · 16 bytes of cache.
  few, many = (
    lowered(1, 64, 32, num_slots=16),
    lowered(1, 256, 32, num_slots=16),
  )
  grown = (peak_bytes(many) - peak_bytes(few)) / (2 * 192)
  assert grown < 512 < 2 * 2 * 2 * 4 * 4 * 16


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"temperature": -0.1}, "temperature is -0.1, expected > 0, or 0"),
    ({"top_k": 0}, "top_k is 0, expected >= 1"),
    ({"top_p": 0.0}, "top_p is 0.0, expected 0 < top_p <= 1"),
    ({"top_p": 1.1}, "top_p is 1.1, expected"),
    ({"is_delimiter": (False,) * VOCAB}, "is_delimiter is False throughout"),
    ({"is_delimiter": TABLE[1:]}, r"shape \(11,\), .* vocabulary's 12 tokens"),
    ({"end_token": VOCAB}, "end_token is 12, expected 0 <= end_token < 12"),
    ({"pad_token": -1}, "pad_token is -1"),
    ({"max_steps": 0}, "max_steps is 0, expected >= 1"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0, expected >= 1"),
    ({"num_slots": 0}, "num_slots is 0, expected >= 1"),
  ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(POLICY, **changes)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"max_new_tokens": 56}, "prompt has 9 tokens .* max_length = 64"),
    ({"prompts": PROMPTS[:0]}, r"problems have shape \(0, 9\)"),
    ({"prompt_len": PROMPT_LEN - 1}, r"prompt_len spans 0 … 8, .* 1 … 9"),
    ({"prompt_len": PROMPT_LEN + 1}, r"prompt_len spans 2 … 10"),
    ({"problem_id": PROBLEM_ID[1:]}, r"problem_id has shape \(3,\)"),
    ({"num_samples": 0}, "num_samples is 0"),
  ],
)
def test_problems_that_cannot_be_sampled_are_refused(
  changes, message, monkeypatch, no_shape_checks
):
  monkeypatch.setattr(continuing, "_continue", None)  # nothing is compiled
  policy = POLICY
  arguments = {
    "prompts": PROMPTS,
    "prompt_len": PROMPT_LEN,
    "problem_id": PROBLEM_ID,
    "num_samples": 1,
  }
  if "max_new_tokens" in changes:
    policy = dataclasses.replace(POLICY, **changes)
  else:
    arguments |= changes
  params = {"embedding": np.zeros((VOCAB, 16))}
  with pytest.raises(ValueError, match=message):
    policy.sample(params, KEY, **arguments)


def test_completions_that_cannot_be_made_are_refused(
  rollout, monkeypatch, no_shape_checks
):
  monkeypatch.setattr(continuing, "_continue", None)
  complete = functools.partial(POLICY.complete, key=KEY, num_samples=1)
  good = {"embedding": np.zeros((VOCAB, 16))}
  with pytest.raises(ValueError, match="vocabulary of 11 tokens, expected 12"):
    complete({"embedding": np.zeros((11, 16))}, rollout=rollout)
  with pytest.raises(ValueError, match=r"prefixes span 0 … 4, expected 0 … 3"):
    complete(good, rollout=rollout, prefixes=np.arange(12)[:, None].clip(max=4))
  with pytest.raises(ValueError, match=r"prefixes have shape \(1, 2\)"):
    complete(good, rollout=rollout, prefixes=np.zeros((1, 2), int))
  cut = dataclasses.replace(rollout, prefix_len=rollout.prefix_len[:, :3])
  with pytest.raises(ValueError, match="2 steps, expected max_steps = 3"):
    complete(good, rollout=cut)
  with pytest.raises(ValueError, match="max_new_tokens is 0"):
    complete(good, rollout=rollout, max_new_tokens=0)


def test_buckets_are_few_and_waste_little():
  sizes = {sampling.bucket(n) for n in range(1, 4097)}
  # 8 up to 128, and 4 for each of the 5 doublings up to 4096.
  assert len(sizes) == 8 + 4 * 5
  for n in range(1, 4097):
    assert n <= sampling.bucket(n) <= max(n + 15, 1.25 * n)
