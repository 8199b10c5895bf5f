import dataclasses
import json
import pathlib

import gin
import pytest

from pav_jax import files, packages
from pav_jax.cli import configuration, gin_files
from pav_jax.cli.pipeline import Part, pipeline, summarize

CALLS = []


@gin.register
def add_one(workdir, experiment, *, number: int = gin.REQUIRED, before=None):
  """An experiment whose result is a number and that of another, and one."""
  CALLS.append(experiment)
  if number < 0:
    raise ValueError(f"number is {number}")
  if before:
    number += json.loads((pathlib.Path(before) / "report.json").read_text())[
      "arms"
    ]["sum"]
  (pathlib.Path(workdir) / "report.json").write_text(
    json.dumps(
      {
        "arms": {"sum": number + 1},
        "name": experiment,
        "verdict": f"it is {number + 1}",
      }
    )
  )


@gin.register
@packages.needs("no_such_module", package="no-such", purpose="writing")
def needy(workdir, experiment):
  """An experiment that would fail at its end."""
  CALLS.append(experiment)


@pytest.fixture
def parts(tmp_path):
  file = tmp_path / "one.gin"
  base = tmp_path / "base.gin"
  base.write_text(
    "import pav_jax.cli.configuration\nrun.experiment = @add_one\n"
  )
  file.write_text(
    f"# Says something.\ninclude '{base}'\n"
    "NUMBER = 10\nadd_one.number = %NUMBER\n"
  )
  CALLS.clear()
  yield [
    Part("first", str(file), ["NUMBER={seed}"]),
    Part("second", str(file), ['add_one.before="{workdir}/first"']),
  ]
  gin.clear_config()


def values(workdir, part):
  return json.loads((workdir / "report.json").read_text())["arms"][part]


def test_parts_run_in_order_on_what_was_made_before(tmp_path, parts):
  pipeline(tmp_path / "w", "both", parts=parts, seeds=[3])
  assert CALLS == ["first", "second"]
  # 3 + 1, then 10 + 4 + 1
  assert values(tmp_path / "w", "first")["arms/sum"]["values"] == [4]
  assert values(tmp_path / "w", "second")["arms/sum"]["values"] == [15]


def test_it_ends_with_what_came_of_each_part(tmp_path, parts, capsys):
  (tmp_path / "w" / "second").mkdir(parents=True)
  page = tmp_path / "w" / "second" / "page.html"
  page.write_text("")
  pipeline(tmp_path / "w", "both", parts=parts, seeds=[3])
  printed = capsys.readouterr().out.splitlines()
  # 3 + 1, then 10 + 4 + 1
  assert printed[-3:] == [
    "first: it is 4",
    "second: it is 15",
    f"second: {page} is to be looked at",
  ]


def test_each_seed_has_directories_of_its_own(tmp_path, parts):
  pipeline(tmp_path / "w", "both", parts=parts, seeds=[3, 6])
  found = values(tmp_path / "w", "second")["arms/sum"]
  assert found == {"mean": 16.5, "least": 15, "most": 18, "values": [15, 18]}
  assert (tmp_path / "w" / "seed6" / "first" / "report.json").exists()


def test_what_is_finished_is_not_run_again(tmp_path, parts):
  pipeline(tmp_path / "w", "both", parts=parts)
  (tmp_path / "w").rename(tmp_path / "moved")
  # Comments decide nothing.
  file = pathlib.Path(parts[0].gin_file)
  file.write_text(file.read_text().replace("Says", "Still says"))
  pipeline(tmp_path / "moved", "both", parts=parts)
  assert CALLS == ["first", "second"]


def test_of_several_gin_files_the_last_decides(tmp_path, parts):
  other = tmp_path / "other.gin"
  other.write_text("NUMBER = 20\n")
  part = Part("first", [parts[0].gin_file, str(other)])
  pipeline(tmp_path / "w", "one", parts=[part])
  # Both files alone: the first says 10, and add_one adds 1.
  assert values(tmp_path / "w", "first")["arms/sum"]["values"] == [20 + 1]
  other.write_text("NUMBER = 30\n")
  with pytest.raises(ValueError, match=r"other\.gin has changed"):
    pipeline(tmp_path / "w", "one", parts=[part])


def test_a_part_that_failed_is_run_again_and_those_before_are_not(
  tmp_path, parts
):
  broken = [parts[0], Part("second", parts[1].gin_file, ["NUMBER=-1"])]
  with pytest.raises(ValueError, match="number is -1"):
    pipeline(tmp_path / "w", "both", parts=broken)
  pipeline(tmp_path / "w", "both", parts=parts)
  assert CALLS == ["first", "second", "second"]


def test_other_settings_are_refused_before_anything_runs(tmp_path, parts):
  pipeline(tmp_path / "w", "both", parts=parts)
  CALLS.clear()
  more = [parts[0], Part(**(vars(parts[1]) | {"more": ["NUMBER=7"]}))]
  with pytest.raises(ValueError, match=r"second was made .*: NUMBER=7 is new"):
    pipeline(tmp_path / "w", "both", parts=more)
  base = tmp_path / "base.gin"
  base.write_text(base.read_text() + "add_one.number = 1\n")
  with pytest.raises(ValueError, match=r"first was made .*base.gin has change"):
    pipeline(tmp_path / "w", "both", parts=parts)
  assert not CALLS


@pytest.mark.parametrize(
  ("bindings", "message"),
  [
    (["NUMBER='ten'"], "second: NUMBER is 'ten', expected a whole number"),
    (["NUMBR=3"], "second: nothing uses the gin name NUMBR; did you mean NUM"),
    (["NUMBER=%gin.REQUIRED"], "second: NUMBER is required"),
  ],
)
def test_a_setting_that_a_later_part_refuses_is_told_before_the_first(
  tmp_path, parts, bindings, message
):
  second = dataclasses.replace(parts[1], more=bindings)
  with pytest.raises(ValueError, match=message):
    pipeline(tmp_path / "w", "both", parts=[parts[0], second])
  assert not CALLS


def test_what_is_common_is_bound_in_all_parts_and_each_may_differ(
  tmp_path, parts
):
  pipeline(tmp_path / "w", "both", parts=parts, common={"NUMBER": 5})
  # The first has NUMBER={seed}, which is 0; 0 + 1, then 5 + 1 + 1.
  assert values(tmp_path / "w", "first")["arms/sum"]["values"] == [1]
  assert values(tmp_path / "w", "second")["arms/sum"]["values"] == [7]
  with pytest.raises(ValueError, match=r"second was made .*NUMBER=6 is new"):
    pipeline(tmp_path / "w", "both", parts=parts[1:], common={"NUMBER": 6})


def test_settings_of_one_part_do_not_reach_the_next(tmp_path, parts):
  # The first binds NUMBER = 5, the second has the file's 10.
  first = Part("first", parts[0].gin_file, ["NUMBER=5"])
  pipeline(tmp_path / "w", "both", parts=[first, parts[1]])
  assert values(tmp_path / "w", "second")["arms/sum"]["values"] == [10 + 6 + 1]


def test_summary_has_what_all_reports_have():
  reports = [{"a": {"b": 1, "c": 2.0}, "d": True}, {"a": {"b": 3}, "e": "x"}]
  assert summarize(reports) == {
    "a/b": {"mean": 2.0, "least": 1, "most": 3, "values": [1, 3]}
  }


@pytest.mark.parametrize(
  "names, seeds, message",
  [
    ([], [0], r"parts are \[\], expected one or more"),
    (["a", "a"], [0], "expected one or more, all unlike"),
    (["a"], [1, 1], r"seeds are \[1, 1\]"),
    (["a"], [], r"seeds are \[\]"),
  ],
)
def test_bad_lists_are_refused(tmp_path, names, seeds, message):
  parts = [Part(name, "x.gin") for name in names]
  with pytest.raises(ValueError, match=message):
    pipeline(tmp_path, "x", parts=parts, seeds=seeds)


def test_one_seed_is_no_list_of_them(tmp_path, no_shape_checks):
  with pytest.raises(ValueError, match=r"seeds are 3, expected some"):
    pipeline(tmp_path, "x", parts=[Part("a", "x.gin")], seeds=3)


def test_a_package_that_a_later_part_lacks_is_told_before_the_first(
  tmp_path, parts
):
  later = Part(
    "later", parts[0].gin_file, ["run.experiment=@needy", "NUMBER=1"]
  )
  with pytest.raises(
    packages.MissingPackageError,
    match="writing needs no-such, which is not installed: pip install no-such",
  ):
    pipeline(tmp_path / "w", "both", parts=[*parts, later])
  assert not CALLS


def test_missing_gin_file_is_named_first(tmp_path, parts):
  absent = Part("third", "no.gin")
  with pytest.raises(FileNotFoundError, match=r"no gin file no\.gin"):
    pipeline(tmp_path / "w", "all", parts=[*parts, absent])
  assert not CALLS


@pytest.mark.parametrize(
  "name",
  [
    "chain_pav",
    "chain_search",
    "chain_rl",
    "chain_rl_regimes",
    "chain_rl_refreshed",
    "countdown_pav",
    "countdown_search",
    "word_problems",
    "word_problems_small",
    "word_problems_kaggle",
  ],
)
def test_the_projects_pipelines_bind_what_their_parts_know(
  name, tmp_path, monkeypatch
):
  asked = []

  def run_files(files, bindings, workdir, part):
    del workdir, part
    asked.append((files, bindings))

  (file,) = (
    str(path)
    for folder in ("gin/experiments", "studies/*")
    for path in gin_files.ROOT.glob(f"{folder}/{name}.gin")
  )
  configuration.parse_gin([file], ["SEEDS = (1,)"])
  monkeypatch.setattr(configuration, "run_files", run_files)
  monkeypatch.setattr("pav_jax.cli.pipeline._mark_finished", lambda *_: None)
  gin.get_configurable("pipeline")(tmp_path, name)
  assert len(asked) >= 3
  for names, bindings in asked:
    gin.clear_config()
    configuration.parse_gin(names, bindings)
    # A figure of finished parts has no seed.
    drawn = [file for file in names if str(file).endswith("/regimes.gin")]
    assert drawn or "SEED=1" in bindings
  gin.clear_config()


@pytest.fixture
def finished(tmp_path, parts):
  """A pipeline that is done, whose first part left a policy."""
  pipeline(tmp_path / "w", "both", parts=parts)
  CALLS.clear()
  return tmp_path / "w"


@pytest.mark.parametrize(
  "damage, message",
  [
    ("lose", r"first.report.json is missing since .*; bring it back, or move"),
    ("change", r"first.report.json was changed since"),
    ("cut", r"first.finished.json cannot be read .*; move .*first and the dir"),
    ("forge", r"first.finished.json .*does not match its checksum"),
  ],
)
def test_results_that_were_lost_or_changed_are_named_and_the_ways_out_work(
  finished, parts, damage, message
):
  result, mark = (
    finished / "first" / name for name in ("report.json", "finished.json")
  )
  good = result.read_text(), mark.read_text()
  if damage == "lose":
    result.unlink()
  elif damage == "change":
    result.write_text(good[0].replace('"sum": 1', '"sum": 2'))
  elif damage == "cut":
    mark.write_text(good[1][:-9])
  else:
    mark.write_text(good[1].replace("report.json", "other.json"))
  with pytest.raises(ValueError, match=message):
    pipeline(finished, "both", parts=parts)
  assert not CALLS
  # It is brought back; or the part is made anew, with those after it.
  kept = result, mark
  if damage in ("lose", "change"):
    kept[0].write_text(good[0])
    pipeline(finished, "both", parts=parts)
    assert not CALLS
  for part in ("first", "second"):
    (finished / part).rename(finished / f"moved {part}")
  pipeline(finished, "both", parts=parts)
  assert CALLS == ["first", "second"]
  assert result.read_text() == good[0]


def test_what_only_people_look_at_may_go(finished, parts):
  (finished / "first" / "logs").mkdir()
  (finished / "first" / "checkpoints").mkdir()
  (finished / "first" / "figure.png").touch()
  pipeline(finished, "both", parts=parts)
  assert not CALLS


def test_a_damaged_report_is_named(finished, parts):
  """Of a part whose mark was made when it was damaged already."""
  path = finished / "second" / "report.json"
  path.write_text("{")
  mark = finished / "second" / "finished.json"
  content = files.read_json(mark, checked=True, way_out="")
  content["results"] = {}
  files.write_json(mark, content, checked=True)
  with pytest.raises(ValueError, match=r"second.report.json cannot be read"):
    pipeline(finished, "both", parts=parts)
