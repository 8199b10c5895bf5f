import matplotlib.image
import numpy as np

from pav_jax.reporting import plots


def colours(path):
  """Distinct colours in a figure that are not grey: what lines are drawn in."""
  pixels = (matplotlib.image.imread(path)[..., :3] * 255).astype(int)
  colourful = np.ptp(pixels, axis=-1) > 60
  return {tuple(pixel) for pixel in pixels[colourful]}


def test_learning_curves_draw_every_arm(tmp_path):
  one = {"a": np.linspace(0, 1, 20)[:, None] * np.ones((20, 3))}
  two = one | {"b": np.zeros((20, 3))}
  few = colours(plots.learning_curves(tmp_path, one))
  more = colours(plots.learning_curves(tmp_path, two))
  assert few and len(more) > len(few)


def test_smoothing_is_a_trailing_mean():
  # Window 2 over 1, 3, 5, 7: 1, then (1+3)/2, (3+5)/2, (5+7)/2.
  values = np.array([[1.0], [3.0], [5.0], [7.0]])
  np.testing.assert_allclose(
    plots.trailing_mean(values, 2)[:, 0], [1.0, 2.0, 4.0, 6.0]
  )
  np.testing.assert_allclose(
    plots.trailing_mean(values, 10)[:, 0], [1, 2, 3, 4]
  )


def test_many_arms_and_the_other_figures_are_drawn(tmp_path):
  arms = {f"arm {i}": np.random.rand(12, 2) for i in range(12)}
  paths = [
    plots.learning_curves(tmp_path, arms),
    plots.pass_at_n(
      tmp_path, [1, 2, 4], {"a": np.random.rand(3, 2)}, title="t"
    ),
  ]
  assert [path.name for path in paths] == [
    "accuracy.png",
    "pass_at_n.png",
  ]
  for path in paths:
    assert colours(path)
