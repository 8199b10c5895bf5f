"""`gcloud`, `xpk`, `kubectl` for tests: records calls; workers are folders.

What is pretended lies in the directory $FAKE: `calls`, a line for each call;
`worker0`, `worker1`, … the homes of workers, in which commands really run;
`bucket`; `state`, of the TPU; and `failures`, JSON, what is to go wrong:

  create       messages with which the next calls that create fail
  queue        states of a queued resource, one for each look at it
  unreachable  whether the next calls by ssh do not reach worker 1
  offline      whether the next looks at the TPU find no network
  addresses    what is told of the workers at the next looks: "none", or "gone"
               when the TPU has vanished
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

FAKE = pathlib.Path(os.environ["FAKE"])
NUM_WORKERS = 2


def quoted(word):
  safe = set(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=@%+,-"
  )
  if word and set(word) <= safe:
    return word
  return "'" + word.replace("'", "'\\''") + "'"


def record(words):
  with (FAKE / "calls").open("a") as file:
    file.write(" ".join(map(quoted, words)) + "\n")


def next_failure(kind, default=None):
  """Takes the next thing that is to go wrong off its list."""
  path = FAKE / "failures"
  failures = json.loads(path.read_text()) if path.exists() else {}
  found = failures.get(kind) or [default]
  failures[kind] = found[1:]
  path.write_text(json.dumps(failures))
  return found[0]


def fail(message):
  print(f"ERROR: (gcloud) {message}", file=sys.stderr)
  sys.exit(1)


def flag(words, name, default=None):
  for word in words:
    if word.startswith(f"--{name}="):
      return word.split("=", 1)[1]
  return default


def homes():
  return [FAKE / f"worker{i}" for i in range(NUM_WORKERS)]


def boot():
  for home in homes():
    home.mkdir()
  (FAKE / "state").write_text("READY")


def destroy():
  for home in homes():
    pid = home / ".pav_jax" / "pid"
    if pid.exists() and pid.read_text().strip():
      with contextlib.suppress(ProcessLookupError):
        os.killpg(int(pid.read_text()), signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)
  (FAKE / "state").unlink(missing_ok=True)


def on_worker(home, command):
  environment = os.environ | {
    "HOME": str(home),
    "PAV_MOUNT": str(FAKE / "bucket"),
    "FAKE_HOST": home.name,
  }
  return subprocess.Popen(
    ["bash", "-c", command], cwd=home, env=environment, text=True
  )


def ssh(words):
  which = flag(words, "worker")
  chosen = homes() if which == "all" else [homes()[int(which)]]
  reachable = chosen
  if next_failure("unreachable"):
    reachable = [home for home in chosen if home.name != "worker1"]
  processes = [on_worker(home, flag(words, "command")) for home in reachable]
  statuses = [process.wait() for process in processes]
  sys.exit(max([*statuses, 255 if len(reachable) < len(chosen) else 0]))


def tpu_vm(verb, words):
  if verb == "create":
    if message := next_failure("create"):
      fail(message)
    if (FAKE / "state").exists():
      fail("ALREADY_EXISTS")
    boot()
  elif verb == "describe":
    if next_failure("offline"):
      fail("Unable to find the server at tpu.googleapis.com")
    if not (FAKE / "state").exists():
      fail("NOT_FOUND: Resource was not found")
    if "state" in flag(words, "format"):
      print((FAKE / "state").read_text())
    elif (told := next_failure("addresses")) == "gone":
      destroy()
      fail("NOT_FOUND: Resource was not found")
    elif told == "none":
      print("")
    else:
      print(";".join(f"10.0.0.{i}" for i in range(NUM_WORKERS)))
  elif verb == "ssh":
    ssh(words)
  elif verb == "scp":
    for home in homes():
      shutil.copy(words[1], home / words[2].split(":")[1])
  elif verb == "delete":
    destroy()


def queued_resources(verb, words):
  queue = FAKE / "queue"
  if verb == "create":
    if message := next_failure("create"):
      fail(message)
    queue.touch()
  elif verb == "describe":
    if not queue.exists():
      fail("NOT_FOUND: Resource was not found")
    state = next_failure("queue", "ACTIVE")
    if state == "ACTIVE" and not (FAKE / "state").exists():
      boot()
    print(state)
  elif verb == "delete":
    assert "--force" in words
    queue.unlink()
    destroy()


def storage(words):
  if words[0] == "rsync":
    source = FAKE / "bucket" / words[2].split("/", 3)[3]
    left_out = re.compile(flag(words, "exclude"))
    for path in source.rglob("*"):
      name = str(path.relative_to(source))
      if path.is_file() and not left_out.match(name):
        (pathlib.Path(words[3]) / name).parent.mkdir(
          parents=True, exist_ok=True
        )
        shutil.copy(path, pathlib.Path(words[3]) / name)


def xpk(words):
  if words[:2] == ["workload", "create"]:
    home = FAKE / "worker0"
    shutil.copytree(flag(words, "script-dir"), home)
    status = on_worker(home, flag(words, "command")).wait()
    (FAKE / "state").write_text(str(status))
  if words[:2] == ["workload", "list"] and flag(
    words, "wait-for-job-completion"
  ):
    sys.exit(125 if int((FAKE / "state").read_text()) else 0)


def main():
  program, *words = sys.argv[1:]
  record([program, *words])
  if program == "xpk":
    xpk(words)
  elif words[:3] == ["compute", "tpus", "tpu-vm"]:
    tpu_vm(words[3], words[3:])
  elif words[:3] == ["compute", "tpus", "queued-resources"]:
    queued_resources(words[3], words[3:])
  elif words[:1] == ["storage"]:
    storage(words[1:])


if __name__ == "__main__":
  main()
