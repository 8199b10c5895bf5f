from setuptools import find_packages, setup

TEST = [
  "beartype",
  "pytest",
  "pytest-xdist",
  "ruff",
  "scipy",
]

setup(
  name="pav_jax",
  version="0.1.0",
  description="Process advantage verifiers in JAX",
  license="Apache-2.0",
  python_requires=">=3.11,<3.14",
  packages=find_packages(include=["pav_jax", "pav_jax.*"]),
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
    "data": ["seqio", "tensorflow", "tensorflow-datasets"],
    "tpu": ["jax[tpu]"],
    "test": TEST,
    "all": TEST,
  },
)
