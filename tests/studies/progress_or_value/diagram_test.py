import numpy as np
import pytest

from pav_jax.problems import two_routes
from studies.progress_or_value import diagram

GRID = diagram.Grid(
  p=(0.3, 0.4, 0.6),
  f=(0.003, 0.03, 0.3),
  num_steps=(5, 8),
  num_beams=(2, 4),
  k=(1, 64),
  alpha=(0.5, 5.0),
)


@pytest.fixture(scope="module")
def cells():
  return diagram.enumerate_cells(GRID)


def test_every_cell_is_that_of_its_axes(cells):
  # No two axes have one length and meaning: a swap of any would be seen.
  for at in ((0, 1, 1, 0, 1, 0), (2, 0, 0, 1, 0, 1), (1, 2, 1, 1, 1, 1)):
    p, f, h, n, k, alpha = (
      getattr(GRID, name)[i]
      for name, i in zip(
        ("p", "f", "num_steps", "num_beams", "k", "alpha"), at, strict=True
      )
    )
    size, rates = (n, 3, h), {"p": p, "f": f, "x": 0.1}
    success = two_routes.search_success
    assert cells.by_progress[at] == success(*size, **rates, alpha=alpha, k=k)
    assert cells.by_value[at[:4]] == success(*size, **rates, alpha=0)
    best = two_routes.optimal_success(*size, **rates)
    assert cells.optimal[at[:4]] == best
    best = two_routes.optimal_success(*size, **rates, first_by_value=True)
    assert cells.optimal_later[at[:4]] == best
  assert (cells.gain <= cells.later_room[..., None, None] + 1e-12).all()
  assert (cells.later_room <= cells.room + 1e-12).all()


def test_summary_by_hand():
  gain = np.array([0.0, 0.5, 0.005, -0.02])
  room = np.array([0.0, 0.8, 0.005, 0.2])
  later_room = np.array([0.0, 0.5, 0.005, 0.1])
  got = diagram.summarise(gain, room, later_room)
  # Of the room of .8 and .2 progress gains .5 and loses .02, and .6 is left.
  want = (0.25, 0.25, 0.25, 0.5, -0.02, 0.5, 0.48, 0.6)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  nothing = diagram.summarise(gain[:1], room[:1], later_room[:1])
  assert nothing.fills == nothing.reachable == 0


def test_losses_are_counted_by_axis(cells):
  lost = cells.gain < -0.01
  lines = diagram.losses(GRID, cells).split("\n")
  assert lines[0] == f"{lost.sum()} cells are lost:"
  assert lost[..., 1].any() and not lost[..., 0].any()
  assert f"  alpha: 5 {lost.sum()}" in lines


def test_processes_in_which_more_beams_are_worse():
  success = np.array([[0.3, 0.28, 0.5], [0.3, 0.295, 0.5], [0.5, 0.6, 0.5]])
  got = diagram.falls_with_beams(success[:, None, None])
  np.testing.assert_allclose(got, 2 / 3)


def test_tables_have_a_row_for_each_point(cells):
  table = diagram.tables(GRID, cells).split("\n")
  for name in ("all", "H = 5", "N = 4", "K = 64", "α = 0.5", "f = 0.03"):
    assert sum(line.startswith(f"| {name} |") for line in table) >= 1
  row = next(line for line in table if line.startswith("| p = 0.4 |"))
  part = cells.gain[1]
  assert f"| {np.mean(part > 0.01):.1%} | {np.mean(part < -0.01):.2%} |" in row
  worst = diagram.extremes(GRID, cells, 1).split("\n")[-1]
  at = np.unravel_index(cells.gain.argmin(), cells.gain.shape)
  assert worst.startswith(f"| {GRID.p[at[0]]} | {GRID.f[at[1]]:.3g} |")
  assert f"| {cells.by_progress[at]:.3f} |" in worst


def test_searches_attain_what_was_enumerated(cells):
  sampled = diagram.sample_cells(
    GRID, cells, count=4, num_searches=1000, seed=1
  )
  assert len(sampled) == 4
  for one in sampled:
    p, f, h, n, k, alpha = one.cell
    assert one.enumerated == two_routes.search_success(
      n, 3, h, p=p, f=f, x=0.1, alpha=alpha, k=k
    )
    error = (one.enumerated * (1 - one.enumerated) / 1000) ** 0.5
    np.testing.assert_allclose(
      one.z, (one.sampled - one.enumerated) / error, rtol=1e-6
    )
    assert abs(one.z) < 3


def test_the_grid_has_no_ties():
  grid = diagram.Grid()
  values = np.power.outer(grid.p, np.arange(1, max(grid.num_steps)))
  assert (abs(np.log(values[..., None] / grid.f)) > 1e-4).all()


def test_the_figure_is_drawn(tmp_path, cells):
  path = tmp_path / "diagram.png"
  diagram.draw(path, GRID, cells, num_beams=4, alpha=0.5)
  assert path.read_bytes().startswith(b"\x89PNG")
