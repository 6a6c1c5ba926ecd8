"""Numbers of a run: JSON lines, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

FILE = "log.jsonl"


class TrainingLog:
    """Writes one line a step.

    Args:
        folder: of the log.
        step: that the run goes on from; lines after it are of steps that will be made again and are dropped.
        is_main: only this process writes.
    """

    def __init__(self, folder: Path, step: int, is_main: bool) -> None:
        self.file = folder / FILE if is_main else None
        self.board = None
        if self.file is None:
            return
        lines = self.file.read_text().splitlines(keepends=True) if self.file.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        partial = self.file.with_suffix(".partial")
        partial.write_text("".join(kept))
        os.replace(partial, self.file)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # TensorBoard is optional
            return
        self.board = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values of a step."""
        if self.file is None:
            return
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
