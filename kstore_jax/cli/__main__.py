"""`python -m kstore_jax.cli`: the `kstore` command."""

import sys

from kstore_jax.cli.main import main

sys.exit(main())
