"""Files of public reward models: which format they are of, and their readers.

| format | files | score of a step |
|---|---|---|
| `token_classification` | one or two labels | softmax, label 1 |
| `qwen_prm` | Linear, ReLU, Linear; as above | softmax, label 1 |
| `plus_minus` | causal | `good` against `bad`, at the mark |
| `assistant_plus` | causal | the same where the mark is predicted |
| `v_head` | `v_head.summary` | sigmoid |

Code that comes with a checkpoint is never run: a head is read by the names of
its tensors.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.models import hf, sources, tokenizer_files, transformer
from pav_jax.models.partitioning import Layout
from pav_jax.models.tokenizer import Tokenizer
from pav_jax.provers.base import Prover
from pav_jax.provers.public import step_joining
from pav_jax.provers.public.reencoding import AS_SAMPLED
from pav_jax.provers.public.score_meanings import RULES, Meaning, Rule, Start
from pav_jax.provers.public.step_joining import EncodesText, Joining
from pav_jax.provers.public.step_reader import LogRatioReader, StepReader

# In the side file of a verifier that we wrote, see `token_classifier`.
SCORES = "scores"


class _Form(NamedTuple):
  """A format.

  Attributes:
    head: beginnings of the names of the head's tensors; () for two tokens'
      rows of the output layer.
    meaning: of the scores, by how models of this format are trained.
    joining: of the models' authors.
    offset: of the token that is read, from the mark.
  """

  head: tuple[str, ...]
  meaning: Meaning
  joining: Joining
  offset: int = 0


FORMATS: Mapping[str, _Form] = {
  "token_classification": _Form(
    ("score.", "classifier."), "correctness", step_joining.SeparatedSteps()
  ),
  "qwen_prm": _Form(("score.",), "correctness", step_joining.ChatSteps()),
  "plus_minus": _Form((), "value", step_joining.TaggedSteps()),
  "assistant_plus": _Form((), "value", step_joining.TurnSteps(), offset=-1),
  "v_head": _Form(("v_head.",), "value", step_joining.SKYWORK),
}


def load(
  path: str | os.PathLike,
  format: str | None = None,
  *,
  good: int | None = None,
  bad: int | None = None,
  meaning: Meaning | None = None,
  joining: Joining | Literal["as_sampled"] | None = None,
  tokenizer: EncodesText | None = None,
  layout: Layout | None = None,
  mesh: jax.sharding.Mesh | None = None,
  dtype: str | None = None,
  param_dtype: str | None = None,
) -> StepReader:
  """Reads a public reward model, or a verifier that `export` wrote.

  Args:
    path: a directory with config.json and safetensors, in one file or several,
      or its name on the hub.
    format: one of `FORMATS`; None to tell by config.json and the names of
      tensors, which it cannot for causal models.
    good: the token of a good step, for `plus_minus` and `assistant_plus`
      (Math-Shepherd 648, Llama 3.1's "+" 10).
    bad: the token of a bad one (Math-Shepherd 387, Llama 3.1's "-" 12).
    meaning: of the scores; None for what models of this format are trained
      for, or what our side file says.
    joining: of problem and steps; None for that of the format's authors, or
      what our side file says. TRL's and PURE's separators are the model's own.
    tokenizer: of the model; None for tokenizer.json beside it, if there is
      one, else one that is named later.
    layout: how to split the decoder over devices; None for `mesh`.
    mesh: from `make_mesh`; None for one device.
    dtype: of computation, such as "bfloat16"; None for that of the parameters.
    param_dtype: of the decoder's parameters; None for what the files hold.

  Raises:
    ValueError: if the format is none of those or cannot be told, tokens are
      missing or out of place, or naming the field, tensor or file that is not
      as expected.
  """
  if layout is None and mesh is not None:
    layout = Layout(mesh)
  path = sources.resolve(path)
  format = _told(path) if format is None else format
  if format not in FORMATS:
    raise ValueError(
      f"format is {format!r}, expected one of {', '.join(FORMATS)}, or None to "
      "tell by the files"
    )
  form, softcap = FORMATS[format], None
  if form.head:
    if good is not None or bad is not None:
      raise ValueError(
        f"good is {good} and bad {bad} for the format {format}, whose head has "
        "no use for tokens; expected None"
      )
    config, backbone, tensors = hf.load_with_head(
      path, form.head, layout=layout, dtype=dtype, param_dtype=param_dtype
    )
    head = _head(tensors, config.width, single=format != "qwen_prm")
  else:
    config, backbone = hf.load(
      path, layout=layout, dtype=dtype, param_dtype=param_dtype
    )
    head = _two_rows(backbone, config, good, bad)
    softcap = config.final_softcap
    backbone.pop("output", None)
    config = dataclasses.replace(config, tied=True)
  side = hf.read_side(path) or {}
  ours = side.get(SCORES, {})
  meaning = meaning or ours.get("meaning", form.meaning)
  if meaning not in RULES or meaning == "log_ratio":
    raise ValueError(
      f"meaning is {meaning!r}, expected 'value' or 'correctness'"
    )
  if joining is None:
    joining = AS_SAMPLED if ours else form.joining
  return StepReader(
    params={"backbone": backbone, "head": head},
    config=config,
    meaning=meaning,
    offset=form.offset,
    softcap=softcap,
    layout=layout,
    joining=joining,
    tokenizer=tokenizer or _beside(path),
    fingerprint=side.get("fingerprint"),
  )


def implicit(
  policy: str | os.PathLike,
  reference: str | os.PathLike,
  beta: float,
  *,
  joining: Joining | None = None,
  tokenizer: EncodesText | None = None,
  layout: Layout | None = None,
  mesh: jax.sharding.Mesh | None = None,
  dtype: str | None = None,
  param_dtype: str | None = None,
) -> LogRatioReader:
  """Reads two causal models whose log-ratio is a reward.

  Args:
    policy: source of π: an implicit reward model, as EurusPRM; or a policy
      after reinforcement learning.
    reference: source of π_ref: what training began with.
    beta: β > 0: 0.05 of the implicit reward models of arXiv 2412.01981, 0.001
      where EurusPRM's authors score, 1 for the progress advantage.
    joining: of problem and steps; None for EurusPRM's.
    tokenizer: of both models; None for tokenizer.json beside the first.
    layout: as of `load`, like those that follow.
    mesh: from `make_mesh`.
    dtype: of computation.
    param_dtype: of the parameters.

  Raises:
    ValueError: if the models have embeddings of different numbers of tokens,
      beta is not positive, or as of `models.hf.load`.
  """
  if layout is None and mesh is not None:
    layout = Layout(mesh)
  paths = [sources.resolve(path) for path in (policy, reference)]
  configs, params = zip(
    *(
      hf.load(path, layout=layout, dtype=dtype, param_dtype=param_dtype)
      for path in paths
    ),
    strict=True,
  )
  sizes = [config.vocab_size for config in configs]
  if sizes[0] != sizes[1]:
    raise ValueError(
      f"the models have {sizes[0]} and {sizes[1]} tokens, expected the same"
    )
  return LogRatioReader(
    params=dict(zip(("policy", "reference"), params, strict=True)),
    config=configs,
    beta=beta,
    layout=layout,
    joining=joining or step_joining.ChatAnswer(),
    tokenizer=tokenizer or _beside(paths[0]),
  )


def prover(
  path: str | os.PathLike,
  problem: Any,
  *,
  rule: Rule | None = None,
  start: Start | None = None,
  rows_per_call: int = 64,
  **options: Any,
) -> Prover:
  """The prover of a public reward model, for gin files: `public_prover`.

  Args:
    path: as of `load`.
    problem: of the policy, as of `PublicReader.prover`.
    rule: as of `PublicReader.prover`.
    start: as of `PublicReader.prover`.
    rows_per_call: as of `PublicReader.prover`.
    **options: of `load`.
  """
  return load(path, **options).prover(
    problem, rule=rule, start=start, rows_per_call=rows_per_call
  )


def implicit_prover(
  policy: str | os.PathLike,
  reference: str | os.PathLike,
  problem: Any,
  beta: float,
  **options: Any,
) -> Prover:
  """The prover of `implicit`, for gin files.

  Args:
    policy: as of `implicit`.
    reference: as of `implicit`.
    problem: of the policy whose rollouts are scored.
    beta: as of `implicit`.
    **options: of `implicit`.
  """
  return implicit(policy, reference, beta, **options).prover(problem)


@dataclasses.dataclass(frozen=True)
class ModelTokenizer(Tokenizer):
  """A tokenizer as a reward model was trained with it.

  It may put a space before each text, or change characters: nothing is decoded
  with it, and joinings encode what the models' authors encode.
  """

  def __post_init__(self):
    """Takes tokenizers that `Tokenizer` refuses."""
    object.__setattr__(self, "path", os.fspath(self.path))


def _beside(path: pathlib.Path) -> EncodesText | None:
  there = (path / tokenizer_files.TOKENIZER).exists()
  return ModelTokenizer(os.fspath(path)) if there else None


def _told(path: pathlib.Path) -> str:
  """The format of some files.

  Raises:
    ValueError: if they may be of several, or of none.
  """
  names = hf.tensor_names(path)
  architectures = hf.read_config(path).get("architectures") or ()
  if any(name.startswith("v_head.") for name in names):
    return "v_head"
  if any(re.match(r"score\.\d+\.", name) for name in names):
    return "qwen_prm"
  scored = any(name.startswith(("score.", "classifier.")) for name in names)
  if scored and not any("Sequence" in str(x) for x in architectures):
    return "token_classification"
  raise ValueError(
    f"the format of {path} cannot be told by its architectures "
    f"{list(architectures)} and its tensors; expected format to be one of "
    f"{', '.join(FORMATS)} (a causal model is 'plus_minus' or "
    "'assistant_plus', with good and bad, or one of two of `implicit`)"
  )


def _head(
  tensors: Mapping[str, np.ndarray], width: int, *, single: bool
) -> tuple[dict, ...]:
  """The layers of a head, from its tensors.

  Args:
    tensors: by their names, `score.weight` or `score.0.weight` and so on.
    width: of the decoder.
    single: whether there has to be one layer alone.

  Raises:
    ValueError: naming the tensors, if they do not make such a head.
  """
  layers: dict[str, dict[str, np.ndarray]] = {}
  for name, x in tensors.items():
    layer, _, leaf = name.rpartition(".")
    layers.setdefault(layer, {})[leaf] = x
  # Layers of a `Sequential` are numbered, activations between them too.
  ordered = [
    layers[name] for name in sorted(layers, key=lambda name: (len(name), name))
  ]
  shapes = {name: x.shape for name, x in tensors.items()}
  inputs = width
  for layer in ordered:
    weight, bias = layer.get("weight"), layer.get("bias")
    fits = layer.keys() <= {"weight", "bias"} and weight is not None
    fits = fits and weight.ndim == 2 and weight.shape[1] == inputs
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
      raise ValueError(
        f"the head has tensors {shapes}, expected weights of layers that "
        f"follow one another from the decoder's {width} features on, and biases"
      )
    inputs = len(weight)
  if inputs not in (1, 2) or (single and len(ordered) > 1):
    raise ValueError(
      f"the head has tensors {shapes}, expected one or two outputs, of "
      f"{'one layer' if single else 'the last layer'}"
    )
  return tuple(
    {"kernel": jnp.asarray(layer["weight"].T)}
    | ({"bias": jnp.asarray(layer["bias"])} if "bias" in layer else {})
    for layer in ordered
  )


def _two_rows(
  params: dict, config: Any, good: int | None, bad: int | None
) -> tuple[dict]:
  """The rows of an output layer that give the logits of two tokens."""
  for name, token in (("good", good), ("bad", bad)):
    if token is None or not 0 <= token < config.vocab_size:
      raise ValueError(
        f"{name} is {token}, expected the id of a token in 0 … "
        f"{config.vocab_size - 1}"
      )
  if good == bad:
    raise ValueError(f"good and bad are both {good}, expected two tokens")
  rows = params[transformer.output_layer(config)][np.array([bad, good])]
  return ({"kernel": rows.astype(jnp.float32).T},)
