"""Loads the compiled operators, so that `torch.ops.vispec` is complete before any file of this package refers to it."""

from pathlib import Path

import torch

LIBRARY = Path(__file__).resolve().parent.parent / "_ops.abi3.so"

if not LIBRARY.is_file():
    raise ImportError(
        f"vispec's compiled operators are missing: {LIBRARY} does not exist. Run `pip install .` in a checkout of "
        "vispec (or `python setup.py build_ext --inplace` to work in the checkout itself)."
    )
torch.ops.load_library(LIBRARY)
