"""`vispec train`: a draft for a target of yours, in one command."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vispec.training.pipeline import train
from vispec.training.self_check import FeedingError
from vispec.training.settings import TrainOptions
from vispec.training.shards import FolderInUse


def run(**options: Any) -> int:
    """Train as far as it is not done yet.

    Returns:
        The exit code: 0, or 1 if something failed that the arguments cannot be blamed for.

    Raises:
        argparse.ArgumentError: an option, the data or the target cannot be used.
    """
    try:
        train(TrainOptions(**options))
    except (FeedingError, FloatingPointError, FolderInUse, ImportError, OSError) as error:
        print(f"vispec train: {error}", file=sys.stderr)
        return 1
    except (NotImplementedError, ValueError) as error:
        raise argparse.ArgumentError(None, str(error)) from error
    return 0
