import json

import pytest

from pav_jax import packages


def test_what_is_there_is_imported():
  assert packages.require("json", package="json", purpose="this") is json


def test_a_missing_package_is_named_with_what_installs_it():
  with pytest.raises(
    packages.MissingPackageError,
    match=r"^reading a needs no-such, .*: pip install no-such$",
  ):
    packages.require("no_such", package="no-such", purpose="reading a")


def test_what_is_only_installed_is_not_imported():
  packages.require_installed("json", package="json", purpose="this")
  with pytest.raises(
    packages.MissingPackageError,
    match=r"^reading a needs no-such, .* not installed: pip install no-such$",
  ):
    packages.require_installed(
      "no_such", package="no-such", purpose="reading a"
    )
