"""`python -m cuda_host FLAVOUR ARGUMENTS`: pytest on the host build of that flavour."""

from __future__ import annotations

import subprocess
import sys

from cuda_host.build import environment, pytest_command

sys.exit(subprocess.run(pytest_command(*sys.argv[2:]), env=environment(sys.argv[1])).returncode)
