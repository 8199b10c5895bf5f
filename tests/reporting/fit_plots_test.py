import matplotlib.image
import numpy as np

from pav_jax.reporting import fit_plots


def test_draws_what_was_measured_and_passes_over_what_was_not(tmp_path):
  def draw(**more):
    validation = {"iteration": [10, 20], "loss": [[0.7], [0.6]]}
    path = fit_plots.summary(
      tmp_path, np.linspace(0.7, 0.5, 20), validation | more
    )
    assert path == tmp_path / "verifier.png"
    return matplotlib.image.imread(path)

  plain = draw(auc_outcome=[[0.6], [0.8]])
  # A measure that is nowhere known changes nothing; one that is does.
  np.testing.assert_array_equal(
    plain, draw(auc_outcome=[[0.6], [0.8]], ece=[[None], [None]])
  )
  other = draw(auc_outcome=[[0.6], [0.8]], ece=[[0.1], [None]])
  assert (plain != other).any()
