"""What launch/README.md names exists, and its commands are accepted.

The latter by SkyPilot and xpk where they are installed, see sky_test.py.
Nothing is called but xpk, with --dry-run.
"""

import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "launch" / "README.md").read_text()
CODE = "\n".join(re.findall(r"^ {4}(.*)$", README, re.MULTILINE))
CODE = re.sub(r" +#.*", "", CODE.replace("\\\n", " "))


def commands(program):
  """What the indented lines call, and what is in backquotes to be pasted."""
  found = re.findall(rf"^{program} .*$", CODE, re.MULTILINE)
  found += re.findall(rf"`({program} [^`]+)`", README)
  assert found
  return found


def settings(name):
  """The README's own export of a variable."""
  return re.search(rf"^export {name}=(\"[^\"]*\"|'[^']*')", CODE, re.MULTILINE)


def test_what_is_named_exists():
  named = re.findall(
    r"\b(?:launch|tests|pav_jax|gin)/[\w/.]*\w|(?<=`)\w+\.(?:sh|yaml)(?=`)",
    README,
  )
  assert len(named) > 10
  for name in named:
    assert (ROOT / name).exists() or (ROOT / "launch" / name).exists(), name


def test_settings_are_those_of_the_file():
  task = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
  host = (ROOT / "launch" / "host.sh").read_text()
  assert set(re.findall(r"--env (\w+)", README)) <= task["envs"].keys()
  for name in task["envs"]:
    assert re.search(rf"\$\{{?{name}\b", host), name


def test_sky_has_the_commands_and_flags(monkeypatch):
  pytest.importorskip("sky")
  from sky.client.cli import command

  monkeypatch.setenv("BUCKET", "my-bucket")
  monkeypatch.setenv("OVERRIDES", settings("OVERRIDES")[1][1:-1])
  for line in commands("sky"):
    _, *words = shlex.split(line.replace(" ID", " 1"))
    parser = command.cli
    while hasattr(parser, "get_command"):
      name, *words = words
      parser = parser.get_command(None, name)
      assert parser, line
    parser.make_context(name, words)


def test_xpk_accepts_the_commands(tmp_path, monkeypatch):
  if not shutil.which("xpk"):
    pytest.skip("xpk is not installed")
  for name in "pav", "here":
    (tmp_path / name).mkdir()
  monkeypatch.chdir(tmp_path / "here")
  for line in commands("xpk"):
    if "storage attach" in line:  # asks the cluster, even so
      continue
    script = f"{settings('GKE')[0]}; {line} --dry-run --skip-validation --quiet"
    result = subprocess.run(
      ["bash", "-ec", script], capture_output=True, text=True
    )
    assert result.returncode == 0, (line, result.stdout, result.stderr)
