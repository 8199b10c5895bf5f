"""Decoding with keys and values kept: prefixes shared, suffixes each row's own.

G groups of R rows. The rows of a group continue prefixes of one text, whose
keys and values are computed once and read by all of them, each up to the length
of its own prefix. What a row adds is its suffix; all rows add one token at a
time, together. S tokens of a group's text, U of suffixes, V vocabulary.

These are functions over the parameters of `transformer`, whose layers they use.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pav_jax.models import transformer
from pav_jax.models.attention import attend_shared, mix_masked, visible
from pav_jax.models.transformer_config import TransformerConfig

# For "local" and "global" layers: keys, rotated, and values, stacked over pairs
# of layers, with positions next to last so that products need no transposes:
# [pairs, G, K, S, H] for a text, [pairs, G, R, K, U, H] for suffixes.
Cache = dict[str, tuple[jax.Array, jax.Array]]


def prefill(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "G S"],
  at: Int[Array, "G Q"],
) -> tuple[Float[Array, "G Q V"], Cache]:
  """Next-token logits after some tokens of each text, and the text's cache.

  Args:
    config: the network's shape.
    params: from `transformer.init`.
    tokens: texts from position 0 on; what comes after them changes nothing.
    at: indices of tokens, each in 0 … S - 1; their logits are those of the next
      token.
  """
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  segments = jnp.zeros_like(tokens)

  def pair(x, params):
    cache = {}
    for name, window in _windows(config):
      mask = visible(positions, positions, segments, segments, window)
      x, kept = transformer.Layer(config).apply(
        {"params": params[name]}, x, positions, mix_masked(config, mask)
      )
      cache[name] = tuple(part.swapaxes(1, 2) for part in kept)
    return x, cache

  x = _embed(config, params, tokens)
  x, cache = jax.lax.scan(pair, x, params["layers"])
  x = jnp.take_along_axis(x, at[:, :, None], axis=1)
  return _logits(config, params, x), cache


def empty_suffixes(
  config: TransformerConfig, num_groups: int, num_rows: int, length: int
) -> Cache:
  """Room for suffixes of up to `length` tokens in `num_rows` rows per group."""
  zeros = jnp.zeros(
    (
      config.num_layers // 2,
      num_groups,
      num_rows,
      config.num_kv_heads,
      length,
      config.head_dim,
    ),
    config.dtype,
  )
  return {name: (zeros, zeros) for name, _ in _windows(config)}


def decode(
  config: TransformerConfig,
  params: dict,
  tokens: Int[Array, "G R"],
  index: Int[Array, ""],
  prefix_len: Int[Array, "G R"],
  shared: Cache,
  suffixes: Cache,
) -> tuple[Float[Array, "G R V"], Cache]:
  """Adds a token to every suffix.

  Args:
    config: the network's shape.
    params: from `transformer.init`.
    tokens: the suffixes' tokens of index `index`.
    index: in 0 … U - 1, the same for all rows. Entries of `suffixes` from here
      on do not matter.
    prefix_len: how many tokens of its group's text each row continues.
    shared: from `prefill`.
    suffixes: from `empty_suffixes` or the last call.

  Returns:
    Logits of the tokens that follow, and the suffixes with these tokens.
  """
  positions = prefix_len + index
  length, room = (x["global"][0].shape[-2] for x in (shared, suffixes))
  # Only the filled quarters of the suffixes are read.
  part = max(-(-room // 4), 16)
  lengths = [*range(part, room, part), room]
  age = index - jnp.arange(room)
  distance = positions[:, :, None] - jnp.arange(length)
  sees_shared = jnp.arange(length) < prefix_len[:, :, None]
  masks = {}
  for name, window in _windows(config):
    near = (distance < window, age < window) if window else (True, True)
    masks[name] = (sees_shared & near[0], (age >= 0) & near[1])

  def pair(carry, xs):
    x, suffixes = carry
    params, shared, which = xs
    after = {}
    for name, _ in _windows(config):

      def mix(query, key, value, name=name):
        grown = tuple(
          jax.lax.dynamic_update_slice(
            old, new[None, :, :, :, None], (which, 0, 0, 0, index, 0)
          )
          for old, new in zip(suffixes[name], (key, value), strict=True)
        )

        def attend_to(length):
          own = tuple(
            jax.lax.dynamic_slice(
              x,
              (which, 0, 0, 0, 0, 0),
              (1, *x.shape[1:4], length, x.shape[5]),
            )[0]
            for x in grown
          )
          sees_shared, sees_own = masks[name]
          return attend_shared(
            query,
            shared[name],
            own,
            sees_shared,
            sees_own[:length],
            scale=config.query_pre_attn_scalar**-0.5,
            softcap=config.attn_softcap,
          )

        gathered = jax.lax.switch(
          index // part, [functools.partial(attend_to, n) for n in lengths]
        )
        return gathered, grown

      x, after[name] = transformer.Layer(config).apply(
        {"params": params[name]}, x, positions, mix
      )
    return (x, after), None

  x = _embed(config, params, tokens)
  pairs = jnp.arange(config.num_layers // 2)
  (x, suffixes), _ = jax.lax.scan(
    pair, (x, suffixes), (params["layers"], shared, pairs)
  )
  return _logits(config, params, x), suffixes


def _windows(config: TransformerConfig) -> tuple[tuple[str, int | None], ...]:
  return (("local", config.sliding_window), ("global", None))


def _embed(config: TransformerConfig, params: dict, tokens: jax.Array):
  return transformer.Transformer(config).apply(
    {"params": params}, tokens, method="embed"
  )


def _logits(config: TransformerConfig, params: dict, x: jax.Array):
  norm = transformer.RMSNorm(config)
  x = norm.apply({"params": params["final_norm"]}, x)
  return transformer.logits(config, params, x)
