import sys
import types

import numpy as np
import pytest

from pav_jax.packages import MissingPackageError
from pav_jax.reporting import trackers
from pav_jax.reporting.metrics import CONFIG, MetricsLog


@pytest.fixture
def calls(monkeypatch):
  """What a package of wandb's interface is called with."""
  made = []

  class Run:
    def log(self, row):
      made.append(("log", row))

    def finish(self):
      made.append(("finish",))

  def init(**settings):
    made.append(("init", settings))
    return Run()

  package = types.ModuleType("trackio")
  package.init, package.__spec__ = init, types.SimpleNamespace()
  monkeypatch.setitem(sys.modules, "trackio", package)
  monkeypatch.setenv(trackers.VARIABLE, "trackio")
  return made


def test_rows_go_to_the_tracker_as_means_over_seeds(calls, tmp_path):
  token = CONFIG.set(lambda: "ALPHA = 1.0")
  log = MetricsLog(tmp_path / "mine")
  (tmp_path / "mine").mkdir()
  log.resume(["a", "b"], 0)
  assert not calls  # a run begins with its first row
  log.write("a", [1, 2], {"loss": np.array([[1.0, 3.0], [np.nan, 1.0]])})
  log.write("b", [1], {"loss": np.array([[5.0]])})
  log.close()
  CONFIG.reset(token)
  (begin, settings), *rows, end = calls
  assert begin == "init" and settings["name"] == "mine"
  assert settings["config"]["gin"] == "ALPHA = 1.0"
  assert rows == [
    ("log", {"a/loss": 2.0, "iteration": 1}),
    ("log", {"iteration": 2}),  # NaN is in the file alone
    ("log", {"b/loss": 5.0, "iteration": 1}),
  ]
  assert end == ("finish",)


def test_without_the_variable_nothing_is_imported(calls, monkeypatch, tmp_path):
  monkeypatch.delenv(trackers.VARIABLE)
  log = MetricsLog(tmp_path)
  log.resume(["a"], 0)
  log.write("a", [1], {"loss": np.array([[1.0]])})
  log.close()
  assert not calls


def test_a_tracker_that_is_not_there_is_told_at_the_start(
  monkeypatch, tmp_path
):
  monkeypatch.setenv(trackers.VARIABLE, "mlflow")
  with pytest.raises(ValueError, match="PAV_TRACKER is 'mlflow', expected one"):
    MetricsLog(tmp_path)
  monkeypatch.setenv(trackers.VARIABLE, "wandb")
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(MissingPackageError, match="PAV_TRACKER=wandb needs wan"):
    MetricsLog(tmp_path)
