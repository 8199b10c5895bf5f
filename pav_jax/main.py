"""`python -m pav_jax.main`: see `pav_jax.cli.command`."""

import sys

from pav_jax.cli.quick import keep_programs, quick_imports

if __name__ == "__main__":
  keep_programs()
  with quick_imports():
    from pav_jax.cli.command import main
  sys.exit(main())
