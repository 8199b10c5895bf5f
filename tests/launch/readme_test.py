"""The commands of launch/README.md, with --dry_run behind them."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "launch" / "README.md").read_text()


def code():
  """Indented lines of blocks, continuation lines joined and comments gone."""
  lines = re.findall(r"^ {4,}(.*)$", README, re.MULTILINE)
  text = "\n".join(lines).replace("\\\n", " ")
  return re.sub(r"(\s)#.*", r"\1", text)


def test_commands_print_what_they_would_call(cloud):
  script = code()
  commands = re.findall(r"^\s*(launch/\w+\.sh .*)$", script, re.MULTILINE)
  assert len(commands) >= 8
  settings = re.findall(r"^\s*(export .*)$", script, re.MULTILINE)
  (flags,) = re.findall(r"^\s*flags=\(.*?\)$", script, re.MULTILINE | re.DOTALL)
  for command in commands:
    result = subprocess.run(
      ["bash", "-ec", "\n".join([*settings, flags, f"{command} --dry_run"])],
      cwd=ROOT,
      env=cloud.environment,
      capture_output=True,
      text=True,
    )
    assert result.returncode == 0, (command, result.stderr)
    assert result.stdout, command
  assert not (cloud.fake / "calls").exists()


def test_scripts_that_are_named_exist():
  for name in re.findall(
    r"`((?:launch|tests|pav_jax|benchmarks)/\S*?)`", README
  ):
    assert (ROOT / name).exists(), name
  for name in re.findall(r"`(\w+\.sh)`", README):
    assert (ROOT / "launch" / name).exists(), name
