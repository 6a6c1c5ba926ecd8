"""`vispec train`: a draft for a target of yours, in one command."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vispec.training.pipeline import TrainOptions, train


def run(**options: Any) -> int:
    """Train as far as it is not done yet.

    Raises:
        argparse.ArgumentError: an option or the data is wrong; nothing has been trained.
    """
    try:
        train(TrainOptions(**options))
    except FloatingPointError as error:
        print(f"vispec train: {error}", file=sys.stderr)
        return 1
    except (ImportError, OSError, ValueError) as error:
        raise argparse.ArgumentError(None, str(error)) from error
    return 0
