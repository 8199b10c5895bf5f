import gin
import pytest

from pav_jax.cli import bindings


@gin.register("gv_outer")
def outer(a, b=2, *, c=None):
  return ("outer", a, b, c)


@gin.register("gv_inner")
def inner(x, y=0):
  return ("inner", x, y)


@gin.register("gv_load")
def load(path):
  raise AssertionError(f"{path} was read")


@pytest.fixture(autouse=True)
def no_bindings():
  yield
  gin.clear_config()


def test_gives_what_gin_would_call_with():
  gin.parse_config("""
    NAME = [@first/gv_inner(), {"k": @gv_inner()}]
    gv_outer.a = %NAME
    gv_outer.c = @gv_inner
    first/gv_inner.x = %X
    gv_inner.x = 5
    gv_inner.y = 6
    X = 4
  """)
  found = bindings.bound("gv_outer", {})
  assert found.pop("c")() == ("inner", 5, 6)
  assert found == {"a": [("inner", 4, 6), {"k": ("inner", 5, 6)}]}


def test_stand_ins_get_the_arguments_and_what_they_replace_is_not_called():
  gin.parse_config("""
    gv_outer.a = @of_a/gv_load()
    of_a/gv_load.path = "DIR"
  """)
  found = bindings.bound("gv_outer", {"gv_load": lambda path: f"not {path}"})
  assert found == {"a": "not DIR"}


def test_what_a_lazy_stand_in_would_get_is_not_evaluated():
  gin.parse_config("""
    gv_outer.a = @gv_inner()
    gv_inner.x = @gv_load()
    gv_load.path = "DIR"
  """)

  def nothing():
    return None

  nothing.lazy = True
  assert bindings.bound("gv_outer", {"gv_inner": nothing}) == {"a": None}


def test_a_scope_holds_within_what_it_calls():
  # As in gin itself: the first gv_inner is called in the scope of gv_outer.
  gin.parse_config("""
    gv_outer.a = @s/gv_inner()
    s/gv_inner.x = @gv_outer()
    s/gv_outer.a = 1
  """)
  found = bindings.bound("gv_outer", {})
  assert found == {"a": ("inner", ("outer", 1, 2, None), 0)}
  assert found == gin.get_bindings("gv_outer")


def test_names_what_is_required():
  gin.parse_config("gv_outer.a = %NEEDED\nNEEDED = %gin.REQUIRED")
  with pytest.raises(ValueError, match="NEEDED is required"):
    bindings.bound("gv_outer", {})
  gin.clear_config()
  gin.parse_config("gv_outer.a = %ABSENT")
  with pytest.raises(ValueError, match="ABSENT is not bound"):
    bindings.bound("gv_outer", {})
