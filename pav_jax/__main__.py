"""`python -m pav_jax`: see `pav_jax.cli.pav`."""

import sys

from pav_jax.cli.pav import main

if __name__ == "__main__":
  sys.exit(main())
