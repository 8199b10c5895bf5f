"""launch/gke.sh against a cloud that is pretended."""

import itertools

import pytest

GIN_FILE = "gin/experiments/some.gin"


def called(cloud, *args):
  result = cloud.run("gke.sh", *args)
  assert result.returncode == 0, result.stderr
  return cloud.calls()


@pytest.mark.parametrize(
  "args",
  [
    ["create", "--spot", "--slices=2"],
    ["launch", GIN_FILE, '--gin.A="a b"'],
    ["bucket"],
    ["status"],
    ["log", GIN_FILE],
    ["stop", GIN_FILE],
    ["delete"],
  ],
)
def test_dry_run_prints_what_is_called(cloud, args):
  printed = cloud.run("gke.sh", *args, "--dry_run")
  assert printed.returncode == 0 and not cloud.calls()
  lines = printed.stdout.splitlines()
  lines = [line for line in lines if not line.startswith("mkdir ")]
  assert lines == [line for line, _ in itertools.groupby(called(cloud, *args))]


def test_the_workload_runs_the_experiment_in_the_bucket(cloud):
  called(cloud, "launch", GIN_FILE, "--gin.A='a b'")
  home = cloud.fake / "worker0"
  assert (home / "arguments").read_text().splitlines() == [
    f"--gin_file={GIN_FILE}",
    "--gin.A='a b'",
    f"--workdir={cloud.fake}/bucket/runs/some",
  ]
  assert (cloud.root / "out" / "some" / "attempts").exists()
  (line,) = cloud.calls("workload create")
  # 0 and 2 are final; 75 is a worker that was told to stop.
  assert "--restart-on-exit-codes=1,75 " in line
  assert "--workload=some " in line


def test_a_workload_that_fails_is_an_error(cloud):
  cloud.experiment("exit 3")
  result = cloud.run("gke.sh", "launch", GIN_FILE)
  assert result.returncode == 1
  assert "the run failed" in result.stderr
  assert cloud.calls("kubectl logs", "jobset-name=some,")


def test_a_worker_that_is_told_to_stop_ends_with_75(cloud):
  cloud.experiment("kill -TERM $PPID; sleep 0.2; exit 0")
  assert cloud.run("gke.sh", "launch", GIN_FILE).returncode == 1
  assert (cloud.fake / "state").read_text() == "75"


def test_names_of_runs_become_names_of_workloads(cloud):
  assert cloud.run("gke.sh", "stop", GIN_FILE, "--run=My_run.1").returncode == 0
  assert cloud.calls("workload delete", "--workload=my-run-1 ")
  result = cloud.run("gke.sh", "stop", GIN_FILE, "--run=1")
  assert result.returncode == 2
  assert "--run is '1', expected at most 39 characters" in result.stderr


def test_missing_flags_are_one_error(cloud):
  result = cloud.run("gke.sh", "create", PAV_ZONE="", PAV_BUCKET="")
  assert result.returncode == 2
  assert result.stderr.startswith(
    "error: missing: --zone or PAV_ZONE, --bucket or PAV_BUCKET;"
  )
  assert not cloud.calls()
