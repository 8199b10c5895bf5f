import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  *ROOT.glob("docs/*.md"),
]


def test_python_example_does_what_it_says():
  (code,) = re.findall(
    r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
  )
  names = {}
  exec(compile(code, "README.md", "exec"), names)
  np.testing.assert_allclose(names["advantages"], [[0.2, 0, -0.3]], atol=1e-7)
  # Steps of 2, 3 and 1 tokens after a problem of 4; 2 · advantage on each.
  np.testing.assert_allclose(
    names["weights"],
    [[0, 0, 0, 0, 0.4, 0.4, 0, 0, 0, -0.6, 0, 0]],
    atol=1e-6,
  )
  np.testing.assert_allclose(names["best_of_4"][0, 0], 1 - 0.9**4, rtol=1e-6)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
  links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
  for link in links:
    if not link.startswith("http"):
      assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_experiments_that_are_named_exist(path):
  for name in re.findall(r"gin/[\w/]+\.gin", path.read_text()):
    assert (ROOT / name).exists(), name
