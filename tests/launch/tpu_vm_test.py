"""launch/tpu_vm.sh against a cloud that is pretended, with two workers."""

import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
GIN_FILE = "gin/experiments/some.gin"
NO_CAPACITY = "There is no more capacity in the zone; code 8"


def without_repeats(lines):
  return [line for line, _ in itertools.groupby(lines)]


def test_scripts_are_clean_under_shellcheck():
  here = pathlib.Path(sys.executable).parent  # of the extra `test`
  places = os.pathsep.join([str(here), os.environ["PATH"]])
  shellcheck = shutil.which("shellcheck", path=places)
  assert shellcheck
  subprocess.run([shellcheck, "-x", *LAUNCH.glob("*.sh")], check=True)


def test_launch_creates_runs_fetches_and_deletes(cloud):
  cloud.experiment('echo 1 >"$workdir/report"')
  result = cloud.tpu_vm("launch", GIN_FILE)
  assert result.returncode == 0, result.stderr
  out = cloud.root / "out" / "some"
  assert (out / "report").read_text() == "1\n"
  assert "attempt of worker1" in (out / "logs" / "worker1.log").read_text()
  assert not (cloud.fake / "state").exists()
  assert "some is finished" in result.stderr


@pytest.mark.parametrize("more", [[], ["--spot"], ["--queue", "--spot"]])
def test_dry_run_prints_what_is_called(cloud, more):
  # An archive is made when it is brought, and by no call.
  flags = ["launch", GIN_FILE, *more, "--gin.A='it''s $HOME'"]
  printed = cloud.tpu_vm(*flags, "--dry_run")
  assert printed.returncode == 0 and not printed.stderr
  assert not cloud.calls()
  result = cloud.tpu_vm(*flags)
  assert result.returncode == 0, result.stderr
  expected = printed.stdout.splitlines()
  # Nothing but waiting may be repeated.
  called = without_repeats(cloud.calls())
  mkdir = [line for line in expected if line.startswith("mkdir ")]
  assert [x for x in expected if x not in mkdir] == called
  assert len(mkdir) == 1
  assert any("create" in line and "--spot" in line for line in called) == (
    "--spot" in more
  )


def test_missing_flags_are_one_error(cloud):
  result = cloud.tpu_vm("launch", GIN_FILE, PAV_PROJECT="", PAV_BUCKET="")
  assert result.returncode == 2
  assert result.stderr == (
    "error: missing: --project or PAV_PROJECT, --bucket or PAV_BUCKET; "
    "launch/tpu_vm.sh --help says more\n"
  )
  assert not cloud.calls()


@pytest.mark.parametrize(
  "args, error",
  [
    (["launch"], "expected one GIN_FILE"),
    (["launch", "gin/experiments/no.gin"], "no gin file gin/experiments/no.g"),
    (["launch", GIN_FILE, "--spott"], "unknown flag --spott"),
    (["launch", GIN_FILE, "--zone"], "--zone lacks a value"),
    (["launch", GIN_FILE, "--gin.A"], "--gin.A lacks =VALUE"),
    (["launch", GIN_FILE, "--run=a b"], "--run is 'a b', expected letters"),
    (["create", "--reruns=many"], "--reruns is 'many', expected a whole"),
    (["create", "--accelerator=h100"], "--runtime is needed for"),
    (["create", "--bucket=gs://a/b"], "--bucket is a/b, expected the name"),
    (["delete", "it"], "unexpected it"),
  ],
)
def test_bad_flags_are_refused_before_any_call(cloud, args, error):
  result = cloud.run("tpu_vm.sh", *args)
  assert result.returncode == 2
  assert result.stderr.startswith(f"error: {error}")
  assert result.stderr.count("\n") == 1
  assert not cloud.calls()


def test_creating_is_tried_until_there_is_capacity(cloud):
  cloud.fails(create=[NO_CAPACITY, "RESOURCE_EXHAUSTED: try later"])
  result = cloud.tpu_vm("create")
  assert result.returncode == 0, result.stderr
  assert len(cloud.calls("tpu-vm create")) == 3
  assert result.stderr.count("trying again") == 2


@pytest.mark.parametrize(
  "message", ["PERMISSION_DENIED", "RESOURCE_EXHAUSTED: Quota limit exceeded"]
)
def test_an_error_that_stays_ends_creating(cloud, message):
  cloud.fails(create=[message])
  result = cloud.tpu_vm("create")
  assert result.returncode == 1
  assert message in result.stderr
  assert len(cloud.calls("tpu-vm create")) == 1


def test_a_queued_resource_is_waited_for_and_asked_for_again(cloud):
  states = ["WAITING_FOR_RESOURCES", "FAILED", "PROVISIONING", "ACTIVE"]
  cloud.fails(queue=states)
  result = cloud.tpu_vm("create", "--queue", "--spot")
  assert result.returncode == 0, result.stderr
  assert len(cloud.calls("queued-resources create", "--spot")) == 2
  assert len(cloud.calls("queued-resources delete", "--force")) == 1
  assert (cloud.fake / "state").read_text() == "READY"


def test_arguments_reach_all_workers_verbatim(cloud):
  extra = ["--gin.NAME='a b'", '--gin.X="$HOME" \\ * `ls`', "--debug"]
  result = cloud.tpu_vm("launch", GIN_FILE, *extra, "--keep", "--run=mine")
  assert result.returncode == 0, result.stderr
  for worker in "worker0", "worker1":
    home = cloud.fake / worker
    assert (home / "arguments").read_text().splitlines() == [
      f"--gin_file={GIN_FILE}",
      *extra,
      f"--workdir={cloud.fake}/bucket/runs/mine",
    ]
    assert (
      (home / "mounted")
      .read_text()
      .endswith(f"my-bucket {cloud.fake}/bucket\n")
    )
    assert "[tpu,data,math]" in (home / "pip").read_text()


def test_after_a_preemption_the_same_command_runs_on_a_new_tpu(cloud):
  cloud.experiment(
    """
    if [ "$attempts" -eq 1 ] && [ "$FAKE_HOST" = worker1 ]; then
      echo PREEMPTED >"$FAKE/state"
      exit 134
    fi
    [ "$attempts" -gt 1 ] || exec sleep 100
    """
  )
  result = cloud.tpu_vm("launch", GIN_FILE, "--reruns=0", "--spot")
  assert result.returncode == 0, result.stderr
  assert "was preempted" in result.stderr
  assert len(cloud.calls("tpu-vm create")) == 2
  starts = cloud.calls("worker.sh start")
  assert len(starts) == 2 and starts[0] == starts[1]
  assert sorted(cloud.attempts()) == ["worker0"] * 2 + ["worker1"] * 2


def test_a_failing_worker_ends_the_run_after_reruns(cloud):
  cloud.experiment('[ "$FAKE_HOST" = worker0 ] || { echo "bad luck"; exit 1; }')
  result = cloud.tpu_vm("launch", GIN_FILE, "--reruns=1")
  assert result.returncode == 1
  assert "worker1 exited 1" in result.stderr
  assert cloud.attempts().count("worker1") == 2
  log = cloud.root / "out" / "some" / "logs" / "worker1.log"
  assert "bad luck" in log.read_text()
  assert not (cloud.fake / "state").exists(), "it costs money"


def test_a_tpu_that_cannot_be_set_up_is_deleted(cloud):
  cloud.program("gcsfuse", "#!/bin/sh\nexit 1\n")  # mounts nothing
  result = cloud.tpu_vm("launch", GIN_FILE, "--reruns=1")
  assert result.returncode == 1
  assert result.stderr.count("could not start on all workers") == 1
  assert not cloud.attempts()
  assert not (cloud.fake / "state").exists()


def test_a_failing_worker_may_succeed_when_it_is_run_again(cloud):
  cloud.experiment('[ "$attempts" -gt 1 ] || [ "$FAKE_HOST" = worker0 ]')
  result = cloud.tpu_vm("launch", GIN_FILE)
  assert result.returncode == 0, result.stderr
  assert len(cloud.calls("tpu-vm create")) == 1


def test_bad_settings_are_not_run_again(cloud):
  cloud.experiment("exit 2")
  result = cloud.tpu_vm("launch", GIN_FILE, "--keep")
  assert result.returncode == 1
  assert cloud.attempts().count("worker0") == 1
  assert (cloud.fake / "state").exists()


def test_a_run_survives_lost_connections(cloud):
  # Goes on until it has been looked at eight times.
  cloud.experiment(
    'until [ "$(grep -c "worker.sh status" "$FAKE/calls")" -ge 8 ]; do '
    "sleep 0.02; done"
  )
  assert cloud.tpu_vm("create").returncode == 0
  assert cloud.tpu_vm("setup").returncode == 0
  assert cloud.tpu_vm("run", GIN_FILE).returncode == 0
  # Starting was one call, which has returned; a second start starts nothing.
  assert cloud.tpu_vm("run", GIN_FILE).returncode == 0
  cloud.wait_until(lambda: len(cloud.attempts()) == 2)
  assert "worker1 running" in cloud.tpu_vm("status").stdout
  cloud.fails(unreachable=[0, 1, 1, 1, 1, 1])
  result = cloud.tpu_vm("launch", GIN_FILE)
  assert result.returncode == 0, result.stderr
  assert not cloud.calls("tpu-vm create") and not cloud.calls("tpu-vm scp")
  assert sorted(cloud.attempts()) == ["worker0", "worker1"]


def test_a_network_that_is_down_for_a_while_ends_nothing(cloud):
  # Looks: before creating, at the workers' number, then at what is the matter.
  cloud.fails(unreachable=[0, 0, 0, 1, 1], offline=[0, 0, 1])
  result = cloud.tpu_vm("launch", GIN_FILE)
  assert result.returncode == 0, result.stderr
  assert "trying again: ERROR: (gcloud) Unable to find" in result.stderr
  assert sorted(cloud.attempts()) == ["worker0", "worker1"]
  # Before anything is begun it is an error.
  cloud.fails(offline=[1])
  result = cloud.tpu_vm("launch", GIN_FILE)
  assert result.returncode == 1
  assert not cloud.calls("create")


def test_checkpoints_and_networks_stay_in_the_bucket(cloud):
  for name in "checkpoints/5/state", "lanes/a/checkpoints/x", "policy/m.json":
    file = cloud.fake / "bucket" / "runs" / "some" / name
    file.parent.mkdir(parents=True)
    file.touch()
  (file.parent / "model.safetensors").touch()
  out = cloud.root / "out" / "some"

  def fetched(*flags):
    assert cloud.tpu_vm("fetch", GIN_FILE, *flags).returncode == 0
    return {str(x.relative_to(out)) for x in out.rglob("*") if x.is_file()}

  assert fetched() == {"policy/m.json"}
  assert fetched("--weights") == {"policy/m.json", "policy/model.safetensors"}


def test_another_run_is_not_disturbed(cloud):
  cloud.experiment("exec sleep 100")
  for command in ["create"], ["setup"], ["run", GIN_FILE]:
    assert cloud.tpu_vm(*command).returncode == 0
  result = cloud.tpu_vm("run", GIN_FILE, "--gin.A=1")
  assert result.returncode == 1 and "another run goes on" in result.stderr
  result = cloud.tpu_vm("launch", GIN_FILE, "--run=other")
  assert result.returncode == 1 and "another run goes on" in result.stderr


def test_a_run_that_is_stopped_is_not_finished(cloud):
  # It saves and exits with 0, as runs do on SIGTERM.
  cloud.experiment(
    """
    trap 'echo saved >"$workdir/saved"; exit 0' TERM
    touch "$HOME/ready"
    while :; do sleep 0.02; done
    """
  )
  for command in ["create"], ["setup"], ["run", GIN_FILE]:
    assert cloud.tpu_vm(*command).returncode == 0
  ready = [cloud.fake / f"worker{i}" / "ready" for i in range(2)]
  cloud.wait_until(lambda: all(path.exists() for path in ready))
  assert cloud.tpu_vm("stop").returncode == 0
  assert cloud.tpu_vm("status").stdout.count(" stopped\n") == 2
  assert (cloud.fake / "bucket" / "runs" / "some" / "saved").exists()


def test_a_run_that_does_not_stop_is_killed(cloud):
  cloud.experiment("trap '' TERM; touch \"$HOME/ready\"; exec sleep 100")
  for command in ["create"], ["setup"], ["run", GIN_FILE]:
    assert cloud.tpu_vm(*command).returncode == 0
  ready = [cloud.fake / f"worker{i}" / "ready" for i in range(2)]
  cloud.wait_until(lambda: all(path.exists() for path in ready))
  assert cloud.tpu_vm("stop", PAV_STOP_SECONDS="1").returncode == 0
  assert cloud.tpu_vm("status").stdout.count(" lost\n") == 2


def test_a_worker_that_was_restarted_is_lost_and_runs_again(cloud):
  cloud.experiment('[ "$attempts" -gt 1 ] || exec sleep 100')
  for command in ["create"], ["setup"]:
    assert cloud.tpu_vm(*command).returncode == 0
  # What is left of an earlier run says nothing of this one.
  for worker in "worker0", "worker1":
    records = cloud.fake / worker / ".pav_jax"
    records.mkdir()
    (records / "ended").write_text("0\n")
  assert cloud.tpu_vm("run", GIN_FILE).returncode == 0
  cloud.wait_until(lambda: len(cloud.attempts()) == 2)
  # After a reboot the number is another process's.
  with subprocess.Popen(["sleep", "100"], start_new_session=True) as other:
    for worker in "worker0", "worker1":
      pid = cloud.fake / worker / ".pav_jax" / "pid"
      os.killpg(int(pid.read_text()), signal.SIGKILL)
      pid.write_text(f"{other.pid}\n")
    status = cloud.tpu_vm("status").stdout
    other.kill()
  assert "worker0 lost" in status and "worker1 lost" in status
  result = cloud.tpu_vm("launch", GIN_FILE)
  assert result.returncode == 0, result.stderr


def test_the_checkout_goes_with_its_changes_and_without_results(cloud):
  (cloud.root / "new.txt").write_text("not committed")
  (cloud.root / "out").mkdir()
  (cloud.root / "out" / "large").touch()
  assert cloud.tpu_vm("create").returncode == 0
  assert cloud.tpu_vm("setup").returncode == 0
  there = cloud.fake / "worker1" / "pav_jax"
  assert (there / "new.txt").read_text() == "not committed"
  assert not (there / "out").exists()
  (cloud.root / "new.txt").unlink()
  assert cloud.tpu_vm("setup").returncode == 0
  assert not (there / "new.txt").exists()
  # The second time nothing was installed.
  assert (cloud.fake / "worker1" / "pip").read_text().count("\n") == 2


def test_a_tpu_that_vanishes_once_it_is_there_is_created_anew(cloud):
  cloud.fails(addresses=["gone"])
  result = cloud.tpu_vm("launch", GIN_FILE)
  assert result.returncode == 0, result.stderr
  assert "pav-jax is gone; starting anew" in result.stderr
  assert len(cloud.calls("tpu-vm create")) == 2


def test_addresses_that_are_not_told_yet_are_asked_for_again(cloud):
  cloud.fails(addresses=["none", "none"])
  result = cloud.tpu_vm("launch", GIN_FILE)
  assert result.returncode == 0, result.stderr
  assert result.stderr.count("has no addresses yet") == 2
  assert sorted(cloud.attempts()) == ["worker0", "worker1"]
  assert not (cloud.fake / "state").exists()


@pytest.mark.parametrize("more", [[], ["--queue"]])
def test_after_an_interrupt_the_advised_command_deletes_everything(cloud, more):
  cloud.experiment("exec sleep 100")
  (cloud.fake / "calls").write_text("")
  script = cloud.root / "launch" / "tpu_vm.sh"
  # A suite that runs in the background ignores it, and so would its children.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  process = subprocess.Popen(
    [script, "launch", GIN_FILE, *more, "--name=mine", "--poll_seconds=0"],
    env=cloud.environment | {"PAV_ZONE": "z-1"},
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  signal.signal(signal.SIGINT, before)
  cloud.wait_until(lambda: len(cloud.attempts()) == 2)
  os.killpg(process.pid, signal.SIGINT)
  _, said = process.communicate(timeout=120)
  assert process.returncode == 130
  advised = re.search(r"launch/tpu_vm.sh (delete .*) ends it", said)[1]
  assert (cloud.fake / "queue").exists() == bool(more)
  result = cloud.run("tpu_vm.sh", *advised.split(), PAV_PROJECT="", PAV_ZONE="")
  assert result.returncode == 0, result.stderr
  assert not (cloud.fake / "state").exists(), "it costs money"
  assert not (cloud.fake / "queue").exists(), "it holds quota"


def test_files_of_any_name_go_and_secrets_stay(cloud):
  git = [
    "git",
    "-C",
    str(cloud.root),
    "-c",
    "user.name=a",
    "-c",
    "user.email=b",
  ]
  for name in (
    "é ü.gin",
    "-rf",
    "--help",
    "a\nb",
    ".env",
    "x.key",
    "committed.key",
  ):
    (cloud.root / name).write_text(name)
  subprocess.run([*git, "add", "-f", "committed.key"], check=True)
  for command in ["create"], ["setup"]:
    result = cloud.tpu_vm(*command)
    assert result.returncode == 0, result.stderr
  there = cloud.fake / "worker1" / "pav_jax"
  for name in "é ü.gin", "-rf", "--help", "a\nb", "committed.key":
    assert (there / name).read_text() == name
  assert not (there / ".env").exists() and not (there / "x.key").exists()
