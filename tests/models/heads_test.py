import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.models import heads, transformer
from pav_jax.models.transformer_config import TransformerConfig

CONFIG = TransformerConfig(
  vocab_size=48,
  width=24,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=40,
  sliding_window=3,
)

values = jax.jit(heads.values, static_argnums=0)


def random_like(tree, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(0.2 * rng.normal(size=x.shape), x.dtype), tree
  )


PARAMS = random_like(transformer.shapes(CONFIG))
HEAD = random_like(heads.init(CONFIG), seed=1)
TOKENS = jnp.asarray(np.random.default_rng(2).integers(48, size=(2, 9)))


def test_a_head_is_an_affine_function_of_the_hidden_state():
  head = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array(0.5)}
  hidden = jnp.array([[[0.0, 0.0], [1.0, 0.0], [3.0, 4.0]]])
  # 0.5;  1 + 0.5;  3 - 8 + 0.5; read in any order, more than once
  got = heads.read(head, hidden, jnp.array([[2, 0, 1, 2]]))
  np.testing.assert_array_equal(got, [[-4.5, 0.5, 1.5, -4.5]])


def test_bfloat16_hidden_states_give_float32_values():
  # 257 ones sum to 257, which bfloat16 would round to 256.
  head = {"kernel": jnp.ones(257), "bias": jnp.zeros(())}
  hidden = jnp.ones((1, 1, 257), jnp.bfloat16)
  got = heads.read(head, hidden, jnp.array([[0]]))
  assert got.dtype == jnp.float32
  assert got[0, 0] == 257


def test_a_new_head_says_one_half():
  got = values(
    CONFIG, PARAMS, heads.init(CONFIG), TOKENS, jnp.array([[0, 8], [3, 3]])
  )
  np.testing.assert_array_equal(jax.nn.sigmoid(got), np.full((2, 2), 0.5))


def test_one_pass_scores_every_prefix_as_if_it_stood_alone():
  ends = jnp.array([[2, 4, 4, 8], [0, 3, 6, 7]])
  got = values(CONFIG, PARAMS, HEAD, TOKENS, ends)
  for row, column in np.ndindex(2, 4):
    # What follows the prefix is replaced; only its last token is read.
    end = ends[row, column]
    prefix = jnp.where(jnp.arange(9) <= end, TOKENS[row], 47)
    alone = values(
      CONFIG, PARAMS, HEAD, jnp.stack([prefix] * 2), jnp.full((2, 4), end)
    )
    np.testing.assert_allclose(got[row, column], alone[0, 0], rtol=1e-5)
  assert len(np.unique(got.round(4))) == 7  # eight, of which two are equal


def test_the_trunk_learns_through_the_head():
  gradients = jax.jit(
    jax.grad(
      lambda params, head: heads.values(
        CONFIG, params, head, TOKENS, jnp.array([[2], [2]])
      ).sum(),
      argnums=(0, 1),
    )
  )(PARAMS, HEAD)
  for gradient in jax.tree.leaves(gradients):
    assert jnp.isfinite(gradient).all()
    assert gradient.any()
  # Two values were read, and the bias is a term of each.
  assert gradients[1]["bias"] == 2
  # Tokens after the third were not seen.
  unseen = set(range(48)) - set(TOKENS[:, :3].ravel().tolist())
  assert not gradients[0]["embedding"][jnp.array(sorted(unseen))].any()


def test_axes_are_named():
  axes = heads.logical_axes()
  for name, x in heads.init(CONFIG).items():
    assert len(axes[name]) == x.ndim
