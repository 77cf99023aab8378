"""``python -m pruneft`` is the `pruneft` command."""

import sys

from pruneft.cli import main

sys.exit(main())
