"""When does progress beat value? The whole phase diagram of two routes.

  python -m studies.progress_or_value.diagram --out=DIR

Enumerates what beams attain in every cell of the grid below, ordered by Q^π
alone, by effective rewards, and in the best way there is; checks a sample of
cells with `search.beam.beam_search`. A minute or two on one core. Prints the
tables of RESULTS.md and writes cells.npz and diagram.png.
"""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from pav_jax import values
from pav_jax.problems import two_routes
from pav_jax.problems.two_routes import TwoRoutes
from pav_jax.search.beam import Settings, beam_search

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.colors import SymLogNorm

CLEAR = 0.01  # a difference of success rates that counts
NUM_CANDIDATES = 3  # C (App. C)


@dataclasses.dataclass(frozen=True)
class Grid:
  """The cells: every combination of these.

  Attributes:
    p: probabilities that a step of Y is right.
    f: probabilities that X's guess is right. None is a power of a p, so that
      no two rewards tie.
    num_steps: H.
    num_beams: N.
    k: of the prover, Best-of-K.
    alpha: weights of progress.
    x: probability that the policy chooses X.
  """

  p: Sequence[float] = tuple(np.round(np.linspace(0.1, 0.9, 17), 2).tolist())
  f: Sequence[float] = tuple(np.geomspace(1.3e-4, 0.48, 16).tolist())
  num_steps: Sequence[int] = (4, 8, 12, 16)
  num_beams: Sequence[int] = (2, 4, 8, 16)
  k: Sequence[int] = (1, 4, 16, 64, 256)
  alpha: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0)
  x: float = 0.1


class Cells(NamedTuple):
  """Success rates, float64; axes in the order of `Grid`'s attributes.

  Attributes:
    by_value: of beams on Q^π alone, [p, f, H, N].
    optimal: of the best choice of survivors, [p, f, H, N].
    optimal_later: of the best choice after a first round by value, which any
      effective reward has here, [p, f, H, N].
    by_progress: of beams on effective rewards, [p, f, H, N, K, alpha].
  """

  by_value: np.ndarray
  optimal: np.ndarray
  optimal_later: np.ndarray
  by_progress: np.ndarray

  @property
  def gain(self) -> np.ndarray:
    """Progress less value, [p, f, H, N, K, alpha]."""
    return self.by_progress - self.by_value[..., None, None]

  @property
  def room(self) -> np.ndarray:
    """What any order could gain over value, [p, f, H, N]."""
    return self.optimal - self.by_value

  @property
  def later_room(self) -> np.ndarray:
    """What is left of that after a first round by value, [p, f, H, N]."""
    return self.optimal_later - self.by_value


def enumerate_cells(grid: Grid) -> Cells:
  """All cells of a grid."""
  shape = tuple(map(len, (grid.p, grid.f, grid.num_steps, grid.num_beams)))
  by_value, optimal, optimal_later = np.zeros((3, *shape))
  by_progress = np.zeros((*shape, len(grid.k), len(grid.alpha)))
  for at in np.ndindex(shape):
    p, f = grid.p[at[0]], grid.f[at[1]]
    size = (grid.num_beams[at[3]], NUM_CANDIDATES, grid.num_steps[at[2]])
    success = functools.partial(
      two_routes.search_success, *size, p=p, f=f, x=grid.x
    )
    by_value[at] = success(alpha=0)
    optimal[at], optimal_later[at] = (
      two_routes.optimal_success(
        *size, p=p, f=f, x=grid.x, first_by_value=first
      )
      for first in (False, True)
    )
    by_progress[at] = [
      [success(alpha=a, k=k) for a in grid.alpha] for k in grid.k
    ]
  return Cells(by_value, optimal, optimal_later, by_progress)


class Summary(NamedTuple):
  """Shares of cells, in [0, 1], and extremes.

  Attributes:
    same: progress keeps what value keeps, in every round.
    wins: progress is better by more than `CLEAR`.
    loses: it is worse by more than that.
    most: largest gain.
    least: most negative one.
    room: some order is better than value by more than `CLEAR`.
    fills: of the room in those cells, summed, the share that progress gains.
    reachable: the share that the best order after a first round by value gains.
  """

  same: float
  wins: float
  loses: float
  most: float
  least: float
  room: float
  fills: float
  reachable: float


def summarise(
  gain: np.ndarray, room: np.ndarray, later_room: np.ndarray
) -> Summary:
  """Of some cells: gains, and the room for them, all of one shape."""
  wide = room > CLEAR
  total = room[wide].sum() if wide.any() else np.inf
  return Summary(
    same=float(np.mean(gain == 0)),
    wins=float(np.mean(gain > CLEAR)),
    loses=float(np.mean(gain < -CLEAR)),
    most=float(gain.max()),
    least=float(gain.min()),
    room=float(np.mean(wide)),
    fills=float(gain[wide].sum() / total),
    reachable=float(later_room[wide].sum() / total),
  )


def tables(grid: Grid, cells: Cells) -> str:
  """Markdown: shares by each axis, and by K and alpha together."""
  gain = cells.gain
  rooms = [
    np.broadcast_to(room[..., None, None], gain.shape)
    for room in (cells.room, cells.later_room)
  ]
  lines = [
    "| cells | same beams | wins | loses | largest gain | largest loss "
    "| there is room | progress fills | could fill |",
    "|---|---|---|---|---|---|---|---|---|",
  ]

  def row(name, *where):
    s = summarise(*(x[where] for x in (gain, *rooms)))
    lines.append(
      f"| {name} | {s.same:.1%} | {s.wins:.1%} | {s.loses:.2%} | {s.most:.3f} "
      f"| {max(0.0, -s.least):.3f} | {s.room:.1%} | {s.fills:.1%} "
      f"| {s.reachable:.1%} |"
    )

  row("all", ...)
  axes = (
    ("H", grid.num_steps, 2),
    ("N", grid.num_beams, 3),
    ("K", grid.k, 4),
    ("α", grid.alpha, 5),
    ("p", grid.p, 0),
    ("f", grid.f, 1),
  )
  for name, points, axis in axes:
    for i, point in enumerate(points):
      row(f"{name} = {point:.3g}", *[slice(None)] * axis, i)
  lines += [
    "",
    "| wins, loses, fills | "
    + " | ".join(f"α = {a:g}" for a in grid.alpha)
    + " |",
    "|" + "---|" * (1 + len(grid.alpha)),
  ]
  for i, k in enumerate(grid.k):
    shares = [
      summarise(*(x[..., i, j] for x in (gain, *rooms)))
      for j in range(len(grid.alpha))
    ]
    shares = " | ".join(
      f"{s.wins:.1%}, {s.loses:.2%}, {s.fills:.0%}" for s in shares
    )
    lines.append(f"| K = {k} | {shares} |")
  return "\n".join(lines)


def losses(grid: Grid, cells: Cells) -> str:
  """Where the cells are that progress loses: a line for each axis."""
  at = np.argwhere(cells.gain < -CLEAR)
  lines = [f"{len(at)} cells are lost:"]
  for axis, name in enumerate(
    ("p", "f", "num_steps", "num_beams", "k", "alpha")
  ):
    points = getattr(grid, name)
    counts = np.bincount(at[:, axis], minlength=len(points))
    lines.append(
      f"  {name}: "
      + ", ".join(
        f"{x:.3g} {n}" for x, n in zip(points, counts, strict=True) if n
      )
    )
  return "\n".join(lines)


def falls_with_beams(success: np.ndarray) -> float:
  """Of processes, the share in which more beams cost more than `CLEAR`.

  Args:
    success: rates [p, f, H, N], by growing N.
  """
  return float(np.mean(np.any(np.diff(success, axis=3) < -CLEAR, axis=3)))


def extremes(grid: Grid, cells: Cells, count: int) -> str:
  """Markdown: the cells with the largest losses, one of each p, f, H, N."""
  least = cells.gain.reshape(*cells.by_value.shape, -1)
  which, least = least.argmin(-1), least.min(-1)
  lines = [
    "| p | f | H | N | K | α | Q alone | progress | best |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  for flat in np.argsort(least, axis=None)[:count]:
    at = np.unravel_index(flat, least.shape)
    i, j = np.unravel_index(which[at], cells.by_progress.shape[-2:])
    lines.append(
      f"| {grid.p[at[0]]} | {grid.f[at[1]]:.3g} | {grid.num_steps[at[2]]} | "
      f"{grid.num_beams[at[3]]} | {grid.k[i]} | {grid.alpha[j]:g} | "
      f"{cells.by_value[at]:.3f} | {cells.by_progress[*at, i, j]:.3f} | "
      f"{cells.optimal[at]:.3f} |"
    )
  return "\n".join(lines)


@functools.partial(jax.jit, static_argnames=("num_searches", "num_beams"))
def _searches(problem, key, alpha, k, *, num_searches, num_beams):
  def value(tokens):
    rollout = problem.rollout(tokens.reshape(-1, problem.num_steps))
    q = problem.q_exact(None, rollout)[:, -1].reshape(tokens.shape[:-1])
    return q, values.best_of_k(q, k)

  beam = beam_search(
    problem.sample_step,
    value,
    jnp.zeros((num_searches, problem.num_steps), jnp.int32),
    key,
    settings=Settings(
      num_beams=num_beams,
      num_candidates=NUM_CANDIDATES,
      num_steps=problem.num_steps,
    ),
    alpha=alpha,
  )
  return jnp.mean(problem.rollout(beam.answer).outcome)


class Sampled(NamedTuple):
  """A cell that was searched many times.

  Attributes:
    cell: p, f, H, N, K and alpha.
    enumerated: the success rate by enumeration.
    sampled: that of the searches.
    z: their difference in standard errors, those of the enumerated rate.
  """

  cell: tuple[float, ...]
  enumerated: float
  sampled: float
  z: float


def sample_cells(
  grid: Grid, cells: Cells, *, count: int, num_searches: int, seed: int
) -> list[Sampled]:
  """Searches a random sample of the cells that are decided by chance.

  Half of them are cells in which progress keeps other beams than value.

  Args:
    grid: of the cells.
    cells: as enumerated.
    count: how many to search.
    num_searches: of each.
    seed: of the choice and of the searches.
  """
  rng = np.random.default_rng(seed)
  open_ = (cells.by_progress > 0.02) & (cells.by_progress < 0.98)
  other = cells.gain != 0
  chosen = [
    rng.choice(np.flatnonzero(open_ & pick), count // 2, replace=False)
    for pick in (other, ~other)
  ]
  sampled = []
  for i, flat in enumerate(np.concatenate(chosen)):
    at = np.unravel_index(flat, cells.by_progress.shape)
    axes = (grid.p, grid.f, grid.num_steps, grid.num_beams, grid.k, grid.alpha)
    p, f, h, n, k, alpha = (axis[j] for axis, j in zip(axes, at, strict=True))
    rate = _searches(
      TwoRoutes(h, *map(jnp.float32, (p, f, grid.x))),
      jax.random.fold_in(jax.random.key(seed), i),
      jnp.float32(alpha),
      jnp.float32(k),
      num_searches=num_searches,
      num_beams=n,
    )
    want = cells.by_progress[at]
    error = (want * (1 - want) / num_searches) ** 0.5
    sampled.append(
      Sampled(
        (p, f, h, n, k, alpha), want, float(rate), (float(rate) - want) / error
      )
    )
  return sampled


def draw(
  path: pathlib.Path, grid: Grid, cells: Cells, *, num_beams: int, alpha: float
) -> None:
  """Gains over p and f, a panel for each H and K, as a PNG file.

  Args:
    path: of the file.
    grid: of the cells.
    cells: as enumerated.
    num_beams: N of all panels.
    alpha: of all panels.
  """
  n, a = grid.num_beams.index(num_beams), grid.alpha.index(alpha)
  gain = cells.gain[:, :, :, n, :, a]
  room = cells.room[:, :, :, n]
  rows, columns = len(grid.num_steps), len(grid.k)
  with plt.rc_context({"font.size": 9, "figure.constrained_layout.use": True}):
    figure, panels = plt.subplots(
      rows,
      columns,
      figsize=(1.0 + 2.0 * columns, 1.0 + 1.75 * rows),
      sharex=True,
      sharey=True,
      squeeze=False,
    )
    norm = SymLogNorm(linthresh=CLEAR, vmin=-1, vmax=1)
    for i, j in np.ndindex(rows, columns):
      axes, h = panels[i, j], grid.num_steps[i]
      shades = axes.pcolormesh(
        grid.p,
        grid.f,
        gain[:, :, i, j].T,
        norm=norm,
        cmap="RdBu",
        shading="nearest",
      )
      axes.contour(
        grid.p,
        grid.f,
        room[:, :, i].T,
        [CLEAR],
        colors="0.45",
        linewidths=0.9,
        linestyles="dashed",
      )
      axes.plot(grid.p, np.power(grid.p, h - 1), color="k", linewidth=0.9)
      axes.set(yscale="log", ylim=(grid.f[0], grid.f[-1]))
      if i == 0:
        axes.set_title(f"prover: Best-of-{grid.k[j]}", fontsize=9)
      if j == 0:
        axes.set_ylabel(f"H = {h} steps")
    figure.supxlabel("p, probability that a step of Y is right", fontsize=10)
    figure.supylabel("f, probability that X's guess is right", fontsize=10)
    small = {"fontsize": 7, "ha": "center", "va": "center"}
    for axes, x, y, text in (
      (panels[0, 0], 0.66, 0.25, "under the line\nY is worth more\nat step 1"),
      (panels[-1, 0], 0.38, 0.45, "within dashes\nsome order\ngains > .01"),
    ):
      axes.text(x, y, text, transform=axes.transAxes, **small)
    bar = figure.colorbar(shades, ax=panels, shrink=0.5, aspect=30)
    bar.set_ticks([-1, -0.1, -0.01, 0, 0.01, 0.1, 1])
    bar.set_ticklabels(["−1", "−.1", "−.01", "0", ".01", ".1", "1"])
    bar.set_label("success rate on progress less that on Q alone")
    figure.suptitle(
      "Progress wins (blue) in a band above the line where both routes are "
      "worth the same at first.\nThe stronger the prover, the wider the band; "
      "Q alone hardly ever wins (red). "
      f"N = {num_beams} beams, α = {alpha:g}, x = {grid.x:g}",
      fontsize=10,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
  """Enumerates, samples, prints and draws."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--x", type=float, default=Grid.x)
  arguments = parser.parse_args()
  arguments.out.mkdir(parents=True, exist_ok=True)
  grid = Grid(x=arguments.x)
  cells = enumerate_cells(grid)
  np.savez_compressed(
    arguments.out / "cells.npz", **dataclasses.asdict(grid), **cells._asdict()
  )
  print(f"{cells.by_progress.size} cells, x = {grid.x}\n")
  print(tables(grid, cells), "\n")
  print(extremes(grid, cells, 8), "\n")
  print(losses(grid, cells), "\n")
  wide, half = cells.room > CLEAR, grid.alpha.index(0.5)
  for i, k in enumerate(grid.k):
    won = cells.gain[..., i, half][wide] > CLEAR
    print(f"of cells with room K = {k}, α = 0.5 wins {np.mean(won):.1%}")
  by_progress = np.moveaxis(cells.by_progress, (4, 5), (0, 1))
  for name, success in (
    ("on Q alone", cells.by_value),
    *(
      (f"on progress, K = {k}, α = 0.5", by_progress[i, half])
      for i, k in enumerate(grid.k)
    ),
    ("in the best order", cells.optimal),
  ):
    share = falls_with_beams(success)
    print(f"more beams are worse in {share:.1%} of processes {name}")
  draw(arguments.out / "diagram.png", grid, cells, num_beams=8, alpha=0.5)
  sampled = sample_cells(grid, cells, count=24, num_searches=10_000, seed=0)
  for one in sampled:
    print(*(f"{x:.4g}" for x in one.cell), end=": ")
    print(f"{one.enumerated:.4f} {one.sampled:.4f} {one.z:+.2f}")
  z = np.array([one.z for one in sampled])
  print(f"largest |z| {abs(z).max():.2f}, mean z² {np.mean(z * z):.2f}")


if __name__ == "__main__":
  main()
