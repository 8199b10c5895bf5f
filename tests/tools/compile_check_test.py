"""Which programs experiments have, and what the check says of them."""

import dataclasses
import json
import pathlib

import gin
import jax
import jax.numpy as jnp
import pytest

from pav_jax.cli.configuration import parse_gin
from pav_jax.models import families, partitioning
from pav_jax.models.presets import PRESETS
from tools import (
  abstract_arrays,
  compile_check,
  compile_report,
  experiment_programs,
  outline,
)
from tools.compiled_programs import Program
from tools.tpu_topologies import Chip, Slice

ROOT = pathlib.Path(__file__).parents[2]
GIB = 2**30
SIZES = [
  "PROBLEM = @Outline()",
  "Outline.prompt_len = 24",
  "Outline.max_response_len = 40",
  "Outline.max_steps = 3",
]


@pytest.fixture(autouse=True)
def no_bindings():
  gin.clear_config()
  yield
  gin.clear_config()


def programs(experiment, *bindings):
  parse_gin([str(ROOT / f"gin/experiments/{experiment}.gin")], list(bindings))
  return {x.name: x for x in experiment_programs.programs(jax.devices())}


def gib_of(program, part):
  return abstract_arrays.bytes_per_device(program.parts[part]) / GIB


def test_fine_tuning_of_27b_on_eight_devices():
  found = programs(
    "math_sft_gemma2_27b",
    *SIZES,
    "make_mesh.fsdp = 8",
    "make_mesh.tensor = 1",
    "CHECKPOINT = 'none'",
  )
  assert list(found) == ["SFT step", "sampling"]
  # 27.2 billion parameters of 4 bytes, and two moments; an eighth of them.
  number = 27.227e9 * 4 / 8 / GIB
  step = found["SFT step"]
  assert gib_of(step, "parameters") == pytest.approx(number, rel=1e-3)
  assert gib_of(step, "optimiser state") == pytest.approx(2 * number, rel=1e-3)
  assert (
    found["sampling"].beside["optimiser state"]
    is (step.parts["optimiser state"])
  )


def test_a_mesh_that_the_run_would_refuse_is_refused():
  with pytest.raises(ValueError, match=r"batch_size is 12, expected .* of 8"):
    programs(
      "math_sft_gemma2_2b",
      *SIZES,
      "make_mesh.fsdp = 8",
      "CHECKPOINT = 'none'",
      "NUM_ROWS = 12",
    )


def test_training_of_a_verifier():
  found = programs(
    "math_verifier_gemma2_9b",
    *SIZES,
    "make_mesh.fsdp = 8",
    "POLICY = 'gemma2_9b'",
    "DATA = 'none'",
  )
  assert list(found) == ["verifier step", "verifier scoring"]
  number = 9.24e9 * 4 / 8 / GIB
  assert gib_of(found["verifier step"], "parameters") == pytest.approx(
    number, rel=1e-2
  )


def test_collection_search_and_reinforcement_need_no_checkpoint():
  tiny = "gin/runs/made_up/tiny/policy"  # has the preset's name in it
  found = programs("chain_collect", f"POLICY = '{tiny}'")
  assert list(found) == ["sampling", "collection"]
  gin.clear_config()
  found = programs(
    "chain_search_arms", f"POLICY = '{tiny}'", f"VERIFIER = '{tiny}'"
  )
  assert list(found) == ["sampling", "verifier scoring", "beam search"]
  gin.clear_config()
  found = programs(
    "chain_rl_arms",
    f"POLICY = '{tiny}'",
    f"VERIFIER = '{tiny}'",
    "ARMS = [@outcome/Arm(), @natural_exact/Arm(), @verifier/Arm()]",
  )
  assert list(found) == [
    "sampling",
    "log-probabilities",
    "verifier scoring",
    "RL update (outcome)",
    "RL update (natural_exact)",
    "RL update (verifier)",
  ]
  assert set(found["sampling"].beside) == {
    "start",
    "state of the update",
    "value function",
    "verifier",
  }


def test_experiments_without_such_programs_are_refused():
  with pytest.raises(ValueError, match="starts from FreshPolicy, expected"):
    programs("planted")
  gin.clear_config()
  with pytest.raises(ValueError, match="of a pipeline check the parts"):
    programs("chain_pav")


def test_networks_are_read_from_config_json_alone(tmp_path):
  config = PRESETS["small"]
  fields = families.to_fields(config, {}) | {"torch_dtype": "bfloat16"}
  fields.pop("dtype", None)
  (tmp_path / "config.json").write_text(json.dumps(fields))
  found = outline.network_at(tmp_path)
  assert (found.width, found.param_dtype) == (config.width, "bfloat16")
  assert outline.verifier_at(tmp_path).reader_layers == 0
  with pytest.raises(ValueError, match="names none of"):
    outline.network_at(tmp_path / "absent")


def product(devices):
  """A program of one product, whose argument is a MiB on each of them."""
  mesh = partitioning.make_mesh(fsdp=len(devices), devices=devices)
  x = jax.ShapeDtypeStruct(
    (512 * len(devices), 512),
    jnp.float32,
    sharding=partitioning.over_batch(mesh),
  )
  return Program(
    "product",
    lambda: jax.jit(lambda x: x @ x.T).lower(x),
    {"parameters": x},
    remedies=("a smaller x",),
  )


def test_the_exit_status_and_a_sentence_say_whether_it_fits(capsys):
  program = product(jax.devices()[:2])
  slice_ = Slice("made-up:2", Chip(GIB, 1e9, ()), jax.devices()[:2])
  (report,), status = compile_check.check([program], slice_)
  said = " ".join(capsys.readouterr().out.split())
  assert status == 0 and "product fits" in said
  # On each of two devices [512, 512] · [512, 1024]: 2 · 512 · 512 · 1024, and
  # the other half comes by an all-gather.
  assert report.costs.flops == 2 * 512 * 512 * 1024
  assert [x.kind for x in report.costs.sent] == ["all-gather"]
  assert "product: all-gather" in said

  def concluded(hbm, **settings):
    small = dataclasses.replace(report, hbm=hbm)
    status = compile_check.conclude(
      [program, program], [report, small], **settings
    )
    return status, " ".join(capsys.readouterr().out.split())

  # A chip of a byte less than is needed.
  status, said = concluded(report.peak - 1)
  assert status == 1
  assert "product fits" in said and "product does not fit" in said
  assert "the largest are" in said and "parameters 0.00 GiB" in said
  assert "What would help: a smaller x; more devices on make_mesh.fsdp" in said
  # Exactly enough, but not with a tenth to spare.
  assert concluded(report.peak)[0] == 0
  status, said = concluded(report.peak, spare=0.1)
  assert status == 1 and "does not fit with 10% to spare" in said


def test_what_is_split_comes_first_where_it_is_largest():
  found = programs(
    "math_sft_gemma2_2b", *SIZES, "CHECKPOINT = 'none'", "make_mesh.fsdp = 8"
  )
  step = found["SFT step"]
  sizes = {
    name: abstract_arrays.bytes_per_device(x) for name, x in step.parts.items()
  }
  report = compile_report.Report(
    "SFT step", GIB, sizes, {}, 1.0, required=sum(sizes.values()) + 5
  )
  first, *_ = compile_check.remedies(step, report)
  assert first.startswith("more devices on make_mesh.fsdp")
  assert first.endswith("which split optimiser state and parameters")


@pytest.mark.parametrize(
  ("arguments", "reason"),
  [
    (["--topology=v5e"], "topology is 'v5e', expected KIND"),
    (["--topology=v5e:4x4", "--spare=2"], "spare is 2.0, expected a share"),
    (["--topology=v5e:4x4", "--gin.NO_SUCH=1"], "nothing uses"),
  ],
)
def test_bad_input_is_status_2(arguments, reason, capsys):
  file = str(ROOT / "gin/experiments/chain_sft.gin")
  assert compile_check.main([f"--gin_file={file}", *arguments]) == 2
  assert reason in capsys.readouterr().err


def test_unknown_flags_end_with_a_hint(capsys):
  with pytest.raises(SystemExit):
    compile_check.parse_arguments(
      ["--gin_file=a", "--topology=v5e:4x4", "--topologie=v5e:4x4"]
    )
  assert "did you mean --topology" in capsys.readouterr().err
