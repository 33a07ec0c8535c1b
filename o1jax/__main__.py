"""`python -m o1jax` is the `o1jax` command."""

import sys

from o1jax.cli import main

sys.exit(main())
