"""When two final answers are one: as strings, or as mathematics."""

import functools

from pav_jax.problems import answer_forms


def same(answer: str, other: str) -> bool:
  """Whether two answers are one string, or have one form.

  A unit or a variable may be missing in one of them, but not differ. A number
  of percent, from 1 % on, is also the number alone.
  """
  if answer.strip() == other.strip():
    return True
  left, right = _form(answer), _form(other)
  return _compatible(left, right) and left.value == right.value


def equal(answer: str, other: str) -> bool:
  """Whether two answers are the same, or equal as mathematics.

  That is so if `expressions` can read all of both, and `expression_equality`
  takes their values, or the equations that they are, for equal. A number of
  percent is also a hundredth of the number.
  """
  # These need mpmath.
  from pav_jax.problems import expression_equality, expressions

  if same(answer, other):
    return True
  left, right = _form(answer), _form(other)
  try:
    values = [expressions.read(x.value) for x in (left, right)]
    if _compatible(left, right) and expression_equality.equal(*values):
      return True
    if left.unit == right.unit and (left.variable or right.variable):
      equations = [expressions.read(_equation(x)) for x in (left, right)]
      return expression_equality.equal(*equations)
  except expressions.Unreadable:
    return False
  percent = {left.unit, right.unit} == {"", "%"}
  if not percent or not _agree(left.variable, right.variable):
    return False
  hundredth = ("number", answer_forms.HUNDREDTH, "0.01")
  return expression_equality.equal(
    *(
      ("*", value, hundredth) if x.unit else value
      for x, value in zip((left, right), values, strict=True)
    )
  )


def _equation(form: answer_forms.Form) -> str:
  return f"{form.variable}={form.value}" if form.variable else form.value


@functools.lru_cache(maxsize=4096)
def _form(answer: str) -> answer_forms.Form:
  return answer_forms.form(answer)


def _agree(left: str, right: str) -> bool:
  return left == right or not (left and right)


def _compatible(left: answer_forms.Form, right: answer_forms.Form) -> bool:
  if not _agree(left.variable, right.variable):
    return False
  if {left.unit, right.unit} == {"", "%"}:
    # 0.3 % is no 0.3.
    value = answer_forms.value_of(left.value if left.unit else right.value)
    return value is not None and (value == 0 or abs(value) >= 1)
  return _agree(left.unit, right.unit)
