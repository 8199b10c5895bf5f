from setuptools import find_packages, setup

TEST = [
  "beartype",
  "pytest",
  "pytest-xdist",
  "ruff",
  "scipy",
]

# seqio needs editdistance and tensorflow-text, which have no wheels elsewhere.
SEQIO = "python_version < '3.13' and sys_platform == 'linux'"
DATA = [
  "sentencepiece",
  f"seqio; {SEQIO}",
  f"tensorflow; {SEQIO}",
  f"tensorflow-datasets; {SEQIO}",
]

setup(
  name="pav_jax",
  version="0.1.0",
  description="Process advantage verifiers in JAX",
  license="Apache-2.0",
  python_requires=">=3.11,<3.14",
  packages=find_packages(include=["pav_jax", "pav_jax.*"]),
  package_data={"pav_jax.reporting": ["inspect.html"]},
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
    "tensorboardX",
  ],
  extras_require={
    "bench": ["torch", "transformers"],
    "data": DATA,
    "tpu": ["jax[tpu]"],
    "test": TEST,
    "all": TEST + DATA,
  },
)
