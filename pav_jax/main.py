"""`python -m pav_jax.main`: see `pav_jax.cli.command`."""

import sys

from pav_jax.cli.command import main

if __name__ == "__main__":
  sys.exit(main())
