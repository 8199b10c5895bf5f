import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tools import compile_report
from tools.compile_report import GIB, Report

REPORT = Report(
  name="SFT step",
  hbm=16 * GIB,
  parts={"parameters": 2 * GIB, "optimiser state": 4 * GIB},
  beside={"start": 1 * GIB},
  compile_seconds=1.0,
  arguments=6 * GIB,
  temporaries=7 * GIB,
  output=GIB // 2,
  code=GIB // 2,
)


def test_the_peak_is_all_that_lies_there_at_a_time():
  # 6 + 7 + 1/2 + 1/2, and 1 beside.
  assert REPORT.peak == 15 * GIB
  assert REPORT.fits() and REPORT.fits(1 / 16)
  assert not REPORT.fits(0.1)


def test_the_verdict_names_the_largest_and_what_would_help():
  assert compile_report.verdict(REPORT) == (
    "SFT step fits: 15.00 GiB a chip of 16.00 GiB."
  )
  small = dataclasses.replace(REPORT, hbm=8 * GIB)
  assert compile_report.verdict(small, remedies=["less", "more"]) == (
    "SFT step does not fit: 15.00 GiB a chip of 8.00 GiB; the largest are "
    "temporaries 7.00 GiB, optimiser state 4.00 GiB, parameters 2.00 GiB. What "
    "would help: less; more."
  )


def test_where_the_compiler_gave_up_temporaries_are_the_rest():
  gave_up = dataclasses.replace(
    REPORT,
    arguments=None,
    temporaries=None,
    output=None,
    code=None,
    required=20 * GIB,
  )
  assert gave_up.peak == 21 * GIB  # with what lies beside
  assert not gave_up.fits()
  # 21 less 2, 4 and 1.
  assert next(iter(gave_up.contributors.items())) == ("temporaries", 14 * GIB)


@pytest.mark.parametrize(
  ("message", "expected"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (30.50G) exceeds available HBM (15.75G).",
      int(30.5 * GIB),
    ),
    ("RESOURCE_EXHAUSTED: … Used 512.0M of 100.0M hbm. Exceeded", 2**29),
    ("INVALID_ARGUMENT: something else (3.00G)", None),
  ],
)
def test_reads_what_the_compiler_would_have_needed(message, expected):
  assert compile_report.required_bytes(message) == expected


def test_an_error_of_another_kind_is_not_swallowed():
  def lower():
    raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

  with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
    compile_report.measure("x", lower, hbm=1, parts={}, beside={})


def test_nothing_is_kept_that_could_not_be_read_again():
  name = "jax_persistent_cache_min_compile_time_secs"
  before = getattr(jax.config, name)
  seen = []

  def lower():
    seen.append(getattr(jax.config, name))
    raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

  with pytest.raises(jax.errors.JaxRuntimeError):
    compile_report.measure("x", lower, hbm=1, parts={}, beside={})
  assert seen == [float("inf")]
  assert getattr(jax.config, name) == before


def test_measures_a_product_of_matrices():
  def lower():
    shape = jax.ShapeDtypeStruct((32, 64), jnp.float32)
    return jax.jit(lambda x: x @ x.T).lower(shape)

  found = compile_report.measure(
    "product", lower, hbm=GIB, parts={"x": 1}, beside={"y": 5}
  )
  # 32 × 32 sums of 64 products; in 8 KiB, out 4 KiB.
  assert found.costs.flops == found.by_xla["flops"] == 2 * 32 * 32 * 64
  assert (found.arguments, found.output) == (8192, 4096)
  assert found.peak == 8192 + 4096 + found.temporaries + found.code + 5
  assert found.each_costs is None
