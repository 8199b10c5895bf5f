import dataclasses

import numpy as np
import pytest

from pav_jax.models.transformer_config import (
  Rotary,
  TransformerConfig,
  shortest_period,
)

CONFIG = TransformerConfig(
  vocab_size=48,
  width=24,
  num_layers=4,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=40,
)


def test_config_is_hashable_and_knows_its_default_scale():
  assert hash(CONFIG) == hash(dataclasses.replace(CONFIG))
  assert CONFIG.query_pre_attn_scalar == 8.0


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("vocab_size", 0, "vocab_size is 0, expected >= 1"),
    ("vocab_size", 10**9, "vocab_size is 1000000000, expected at most"),
    ("sliding_window", 0, "sliding_window is 0, expected >= 1"),
    ("num_layers", 10**9, "num_layers is 1000000000, expected at most 4096"),
    ("head_dim", 5, "head_dim is 5, expected even"),
    ("num_kv_heads", 3, "num_heads is 4, expected a multiple .*, 3"),
    ("attn_softcap", 0.0, "attn_softcap is 0.0, expected > 0"),
    ("norm_eps", float("nan"), "norm_eps is nan, expected > 0"),
    ("query_pre_attn_scalar", -1.0, "query_pre_attn_scalar is -1.0, expected"),
    ("pattern", (), r"pattern is \(\), expected some of"),
    ("pattern", ("near",), r"pattern is \('near',\), expected some of"),
    ("activation", "relu", "activation is 'relu', expected one of .*'silu'"),
    ("dtype", "float16", "dtype is 'float16', expected one of .*bfloat16"),
    ("param_dtype", "f32", "param_dtype is 'f32', expected one of"),
    ("remat", "all", "remat is 'all', expected one of .*'full'"),
  ],
)
def test_bad_sizes_are_refused(field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **{field: value})


def windows(config):
  return [spec.window for spec in config.layers]


def test_a_pattern_is_repeated_and_cut_off():
  """Gemma 3's: eight layers are a period of six, and two more."""
  config = dataclasses.replace(
    CONFIG,
    num_layers=8,
    pattern=("local",) * 5 + ("global",),
    sliding_window=3,
    rotary=Rotary(1e6),
    local_rotary=Rotary(),
  )
  assert windows(config) == [3, 3, 3, 3, 3, None, 3, 3]
  assert (config.num_periods, len(config.remainder)) == (1, 2)
  assert [spec.rotary.theta for spec in config.period[4:]] == [1e4, 1e6]
  names = [spec.name for spec in config.period]
  assert names == [*(f"local_{i}" for i in range(5)), "global"]
  # Gemma 2's names are those of its first checkpoints.
  assert [spec.name for spec in CONFIG.period] == ["local", "global"]


def test_other_layers_begin_where_they_are_told():
  config = dataclasses.replace(
    CONFIG, num_layers=7, pattern=("local", "local", "global"), sliding_window=2
  )
  assert windows(config) == [2, 2, None, 2, 2, None, 2]
  # As if the network went on, and as the last two of a period.
  assert windows(config.with_layers(3, first=7)) == [2, None, 2]
  assert windows(config.with_layers(2, first=-2)) == [2, None]


def test_the_shortest_period_gives_all():
  assert shortest_period(("a",)) == ("a",)
  assert shortest_period(("a", "a", "a")) == ("a",)
  assert shortest_period(("a", "b", "a")) == ("a", "b")
  assert shortest_period(("a", "b", "b")) == ("a", "b", "b")


def test_scaled_frequencies():
  """Llama 3's, by the case distinction of its report's reference code."""
  plain = Rotary(500_000.0).frequencies(16)
  want = 500_000.0 ** (-np.arange(8) / 8)
  np.testing.assert_allclose(plain, want, rtol=1e-6)
  linear = Rotary(500_000.0, "linear", 4.0).frequencies(16)
  np.testing.assert_allclose(linear, want / 4, rtol=1e-6)
  got = Rotary(500_000.0, "llama3", 4.0, 1.0, 4.0, 64).frequencies(16)
  kinds = set()
  for i, frequency in enumerate(want):
    wavelength = 2 * np.pi / frequency
    if wavelength < 64 / 4.0:
      kinds.add("kept")
    elif wavelength > 64 / 1.0:
      kinds.add("stretched")
      frequency /= 4.0
    else:
      kinds.add("between")
      smooth = (64 / wavelength - 1.0) / (4.0 - 1.0)
      frequency = (1 - smooth) * frequency / 4.0 + smooth * frequency
    np.testing.assert_allclose(got[i], frequency, rtol=1e-6)
  assert kinds == {"kept", "between", "stretched"}


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"scaling": "yarn"}, "scaling is 'yarn', expected one of"),
    ({"factor": 0.0}, "factor is 0.0, expected > 0"),
    ({"theta": float("inf")}, "theta is inf, expected > 0"),
    ({"low_freq_factor": 4.0}, "low_freq_factor is 4.0, expected less than"),
  ],
)
def test_bad_rotary_positions_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Rotary(**fields)
