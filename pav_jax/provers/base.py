"""What a prover is, and what some provers can do besides.

A prover maps prefixes to probabilities of success: `(key, rollout) -> q`, of
one sample each. Reinforcement learning, search and the training of verifiers
take any prover, and none of them asks which one it got. Best-of-K and the like
are provers made of another prover's values (`Wrapper`). What only some can do
has a protocol of its own, and a function here that serves all others too:

| a prover that | protocol | functions for any prover |
|---|---|---|
| is made of another's values | `Wrapper` | `split` |
| is that of a search's own policy | `PolicyValues` | `of_policy` |
| reads on behind a prefix cache | `HasPrefixCache` | `prefix_cache` |
| has parameters | `HasParams` | `networks`, `placed`, `described` |
| reports numbers of its own | `HasMetrics` | `metrics` |
"""

import abc
import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from pav_jax.files import describe
from pav_jax.models import partitioning
from pav_jax.models.partitioning import Layout
from pav_jax.rollout import Rollout

Placement = Literal["device", "host"]

# A Python number where a configuration is written, an array under `jit`.
Metrics = Mapping[str, Any]


@typing.runtime_checkable
class Prover(Protocol):
  """A function from rollouts to the values of their prefixes.

  It is a frozen dataclass. One whose placement is "device" is also registered
  as a pytree, whose leaves are what may vary without another compilation.
  """

  @property
  def placement(self) -> Placement:
    """Where it runs.

    "device" is pure JAX, and may be traced in any transformation; "host" takes
    and gives numpy arrays, and may do anything.
    """
    ...

  def with_policy(self, policy: Any, params: PyTree) -> "Prover":
    """The prover while `policy` has the parameters `params`.

    Itself, the same object, unless its values are those of the policy that is
    being trained or searched (on-policy Monte Carlo).
    """
    ...

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[ArrayLike, "B P"]:
    """Values of all prefixes, see `values`.

    Args:
      key: of the run; completions fold the addresses of prefixes into it.
        None where nothing is sampled.
      rollout: of B rows and P = H + 1 prefixes. `outcome` may be NaN.

    Returns:
      float32 q[b, h] in [0, 1]: the probability that prefix h of rollout b,
      completed once by the prover's policy, ends correct. Entries past the end
      of a response repeat the last one.
    """
    ...


class FixedProver:
  """A prover that is made of no policy in training.

  Attributes:
    placement: "host", which any function may be; a subclass that is pure JAX
      and a pytree says "device". Of the class.
  """

  placement: typing.ClassVar[Placement] = "host"

  def with_policy(self, policy: Any, params: PyTree) -> Prover:
    """Itself."""
    del policy, params
    return self


class OfAnother:
  """A prover that asks another one. Subclasses are dataclasses.

  Attributes:
    prover: the other one.
  """

  prover: Prover

  def with_policy(self, policy: Any, params: PyTree) -> Prover:
    """With the other prover's of that policy, see `Prover`."""
    inner = self.prover.with_policy(policy, params)
    if inner is self.prover:
      return self
    return dataclasses.replace(self, prover=inner)


class Wrapper(OfAnother, abc.ABC):
  """A prover made of another's values, of the same rollouts.

  Attributes:
    is_pointwise: whether a value is made of the same prefix's value alone, so
      that rollouts are not looked at. Of the class.
  """

  is_pointwise: typing.ClassVar[bool] = False

  @property
  def placement(self) -> Placement:
    """The other's, see `Prover`."""
    return self.prover.placement

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[ArrayLike, "B P"]:
    """See `Prover`."""
    return self.of_values(self.prover(key, rollout), rollout)

  @abc.abstractmethod
  def of_values(
    self, q: Float[ArrayLike, "*B"], rollout: Rollout | None
  ) -> Float[ArrayLike, "*B"]:
    """Its values, from the other's.

    Args:
      q: the other prover's values, [B, P]; of any shape if `is_pointwise`.
      rollout: whose prefixes they are; None only if `is_pointwise`.
    """


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=[], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Given(FixedProver):
  """Stands for a prover whose values have been read, see `split_pure`."""

  placement = "device"

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[Array, "B P"]:
    """Raises ValueError: its values are handed over."""
    raise ValueError(
      "Given stands for values that are handed over, expected `of_values`"
    )


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=[], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class PolicyValues(FixedProver):
  """Stands for the prover that gives a search its Q^π, see `of_policy`.

  So `BestOfK(PolicyValues(), 4)` is Best-of-4 of the searched policy, whichever
  verifier that has, and a search reads traces once for both.
  """

  def __call__(
    self, key: jax.Array | None, rollout: Rollout
  ) -> Float[ArrayLike, "B P"]:
    """Raises ValueError: nothing has been put in its place."""
    raise ValueError(
      "PolicyValues stands for the verifier of a search's policy and has no "
      "values of its own, expected a search, or another prover"
    )


@typing.runtime_checkable
class HasPrefixCache(Protocol):
  """A prover that reads on behind what it has read; pure JAX.

  B problems have N beams each, G = B · N; each beam has C candidates for its
  next step. A cache is a pytree that the prover alone looks into.
  """

  def start_cache(
    self,
    prompts: Int[Array, "B S"],
    prompt_len: Int[Array, "B"],
    *,
    num_beams: int,
    length: int,
  ) -> tuple[PyTree, Float[Array, "B"]]:
    """Reads problems: a cache of all their beams, and the problems' values.

    Args:
      prompts: tokens, then anything.
      prompt_len: how many are the problem's.
      num_beams: N.
      length: tokens for which the cache has room.
    """
    ...

  def read_steps(
    self,
    cache: PyTree,
    tokens: Int[Array, "G C U"],
    count: Int[Array, "G C"],
    prefix_len: Int[Array, "G"],
  ) -> tuple[PyTree, Float[Array, "G C"]]:
    """Reads candidates' steps: what to keep of them, and values after them.

    Args:
      cache: of the beams.
      tokens: of the steps.
      count: how many; values of candidates with none mean nothing.
      prefix_len: tokens of the beams.
    """
    ...

  def keep_steps(
    self,
    cache: PyTree,
    read: PyTree,
    parent: Int[Array, "B M"],
    candidate: Int[Array, "B M"],
    prefix_len: Int[Array, "G"],
    count: Int[Array, "G"],
  ) -> PyTree:
    """The cache of M survivors of each problem.

    Args:
      cache: of the beams before.
      read: of their candidates, from `read_steps`.
      parent: the beam that each survivor continues, 0 … N - 1.
      candidate: which of the beam's candidates it is, 0 … C - 1.
      prefix_len: tokens that each survivor had before its step.
      count: tokens of its step.
    """
    ...


@typing.runtime_checkable
class HasParams(Protocol):
  """A prover with parameters."""

  params: PyTree

  @property
  def networks(self) -> tuple[Any, ...]:
    """Shapes (`VerifierConfig`) of networks that read every token once."""
    ...

  @property
  def layout(self) -> Layout | None:
    """How the parameters lie on a mesh; None for one device."""
    ...

  def with_params(self, params: PyTree, layout: Layout | None) -> Prover:
    """The same prover with these parameters, which lie as the layout says."""
    ...


@typing.runtime_checkable
class HasMetrics(Protocol):
  """A prover that has something to report of the rollouts it has seen."""

  def metrics(self, q: Float[ArrayLike, "B P"], rollout: Rollout) -> Metrics:
    """Scalars, by name; pure JAX. `q` is what `of_values` is given."""
    ...


def values(
  prover: Prover, key: jax.Array | None, rollout: Rollout
) -> Float[ArrayLike, "B P"]:
  """A prover's values, by a compiled program where they come from the device.

  This is how everything outside of `jit` calls a prover. It is
  `prover(key, rollout)` as an array of float32, of JAX's or of numpy's.
  """
  inner, wrappers = split(prover)
  if inner.placement == "device":
    q = _compiled(inner, key, rollout)
  else:
    rollout = jax.tree.map(np.asarray, rollout)
    q = np.asarray(inner(key, rollout), np.float32)
  for wrapper in wrappers:
    q = wrapper.of_values(q, rollout)
  return q


@jax.jit
def _compiled(prover, key, rollout):
  return prover(key, jax.tree.map(jnp.asarray, rollout))


def split(prover: Prover) -> tuple[Prover, tuple[Wrapper, ...]]:
  """The prover that reads rollouts, and what is made of its values, in order.

  `q = inner(key, rollout)`, and then `q = wrapper.of_values(q, rollout)` for
  each wrapper, is what `prover(key, rollout)` is.
  """
  wrappers: list[Wrapper] = []
  while isinstance(prover, Wrapper):
    wrappers.append(prover)
    prover = prover.prover
  return prover, tuple(reversed(wrappers))


def split_pure(prover: Prover | None) -> tuple[Prover | None, Prover]:
  """What has to read rollouts where it is, and what is pure JAX around it.

  Wrappers run on the host if their class says so, whatever they wrap; the
  outermost others may wait until the rollouts are graded and gathered, as
  those have to that look at a whole batch (`AdaptiveK`).

  Args:
    prover: any, or None.

  Returns:
    The part that reads rollouts, None without a prover; and the rest with
    `Given` in that part's place: a pytree, for `metrics` and `of_values`.
  """
  around: list[Wrapper] = []
  while isinstance(prover, Wrapper) and (
    type(prover).placement is Wrapper.placement
  ):
    around.append(prover)
    prover = prover.prover
  outer: Prover = Given()
  for wrapper in reversed(around):
    outer = dataclasses.replace(wrapper, prover=outer)
  return prover, outer


def of_values(
  prover: Prover, q: Float[Array, "B P"], rollout: Rollout
) -> Float[Array, "B P"]:
  """A prover's values from those of its innermost one; pure if it is."""
  for wrapper in split(prover)[1]:
    q = wrapper.of_values(q, rollout)
  return q


def prefix_cache(prover: Prover) -> HasPrefixCache | None:
  """A prover that `split` gave as one that reads step by step; else None."""
  return prover if isinstance(prover, HasPrefixCache) else None


def of_policy(prover: Prover, q_policy: Prover) -> Prover:
  """A prover with `q_policy` in the place of `PolicyValues`, if that is there.

  Args:
    prover: any.
    q_policy: the prover that gives a search its Q^π.
  """
  return _on_innermost(
    lambda inner: q_policy if isinstance(inner, PolicyValues) else inner, prover
  )


def follows_policy(prover: Prover) -> bool:
  """Whether its values are those of the policy in training or search."""
  return prover.with_policy(None, ()) is not prover


def metrics(
  prover: Prover, q: Float[ArrayLike, "B P"], rollout: Rollout
) -> dict[str, Any]:
  """What a prover and those it is made of report; pure.

  Args:
    prover: any.
    q: values of the innermost one, `split(prover)[0]`.
    rollout: graded.
  """
  out: dict[str, Any] = {}
  for wrapper in split(prover)[1]:
    if isinstance(wrapper, HasMetrics):
      out |= wrapper.metrics(q, rollout)
    q = wrapper.of_values(q, rollout)
  return out


def networks(prover: Prover) -> tuple[Any, ...]:
  """Shapes of the networks that read every token of a rollout once."""
  inner, _ = split(prover)
  return inner.networks if isinstance(inner, HasParams) else ()


def layout_of(prover: Prover) -> Layout | None:
  """How a prover's parameters lie on a mesh; None without, or on one device."""
  inner, _ = split(prover)
  return inner.layout if isinstance(inner, HasParams) else None


def placed(
  prover: Prover,
  layout: Layout | None,
  copies: dict[int, Prover] | None = None,
) -> Prover:
  """A prover with a copy of its parameters on every device of a layout.

  Args:
    prover: any; without parameters, or with a layout of its own, it stays.
    layout: of whole copies; with None, or one that splits parameters, the
      prover stays.
    copies: what has been placed already, by the `id` of what it was before;
      gets what is placed now. So provers that share parameters share copies.
  """
  copies = {} if copies is None else copies

  def place(inner):
    if not isinstance(inner, HasParams) or inner.layout:
      return inner
    if id(inner) not in copies:
      whole = partitioning.replicated(layout.mesh)
      params = partitioning.put(inner.params, whole)
      copies[id(inner)] = inner.with_params(params, layout)
    return copies[id(inner)]

  if layout is None or layout.splits_parameters:
    return prover
  return _on_innermost(place, prover)


def on_own_devices(prover: Prover) -> Prover:
  """A prover whose parameters every device has, for this process alone.

  One of a layout within this process stays.
  """

  def own(inner):
    if not isinstance(inner, HasParams) or inner.layout is None:
      return inner
    params = jax.tree.map(partitioning.own, inner.params)
    return inner.with_params(params, inner.layout.own)

  return _on_innermost(own, prover)


def described(prover: Prover, digest: Callable[[PyTree], str]) -> str:
  """A prover in one line of text, with its parameters' digest in their place.

  Equal for provers with equal values; where parameters lie does not show.
  """

  def summarize(inner):
    if isinstance(inner, HasParams):
      return inner.with_params(digest(inner.params), None)
    return inner

  return describe(_on_innermost(summarize, prover))


def _on_innermost(fn: Callable, prover: Prover) -> Prover:
  """Applies a function to the prover that reads rollouts."""
  inner, wrappers = split(prover)
  changed = fn(inner)
  if changed is inner:
    return prover
  return functools.reduce(
    lambda within, wrapper: dataclasses.replace(wrapper, prover=within),
    wrappers,
    changed,
  )
