"""Chat templates: programs in Jinja that models bring, run in a sandbox."""

import datetime
import functools
import json
from typing import Any

from pav_jax import packages


def render(template: str, **variables: Any) -> str:
  """What a chat template makes of its variables.

  Templates find the helpers that transformers gives them: `raise_exception`,
  `strftime_now`, the filter `tojson`, `break` and `continue`.

  Args:
    template: Jinja.
    **variables: that it knows: `messages`, `add_generation_prompt`, the texts
      of special tokens, and whatever else it asks for. They are rebuilt out of
      plain JSON first, so that a template is handed no methods.

  Raises:
    ValueError: if the template is wrong, refuses the messages, or asks for
      something that the sandbox forbids; or a variable is not plain JSON.
  """
  try:
    plain = json.loads(json.dumps(variables))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"is given {variables!r:.200}, expected plain JSON: {error}"
    ) from error
  jinja2 = _jinja2()
  try:
    return _compiled(template).render(**plain)
  except (jinja2.TemplateError, TypeError, ArithmeticError) as error:
    raise ValueError(f"cannot be rendered: {error}") from error


def _jinja2() -> Any:
  packages.require("jinja2.ext", package="jinja2", purpose="a chat template")
  return packages.require("jinja2", package="jinja2", purpose="a chat template")


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
  jinja2 = _jinja2()
  sandbox = packages.require(
    "jinja2.sandbox", package="jinja2", purpose="a chat template"
  )
  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[jinja2.ext.loopcontrols],
  )

  def raise_exception(message):
    raise jinja2.TemplateError(message)

  environment.globals["raise_exception"] = raise_exception
  environment.globals["strftime_now"] = _strftime_now
  environment.filters["tojson"] = _to_json
  return environment.from_string(template)


def _strftime_now(form: str) -> str:
  return datetime.datetime.now().strftime(form)


def _to_json(
  x: Any,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  """Unlike Jinja's own filter, without escapes for HTML."""
  return json.dumps(
    x,
    ensure_ascii=ensure_ascii,
    indent=indent,
    separators=separators,
    sort_keys=sort_keys,
  )
