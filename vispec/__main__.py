"""`python -m vispec`: the command `vispec`."""

import sys

from vispec.cli import main

sys.exit(main())
