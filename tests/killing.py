"""Processes of their own: how long to wait for them, and kill -9 at a chosen moment."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable

from tqdm.auto import tqdm

PATIENCE = 600.0  # seconds, reached only where something hangs: on a busy machine an import alone takes a minute


def run_and_kill(work: Callable[[], object], moment: Callable[[], bool]) -> bool:
    """Run `work` in a fork of this process and kill it once `moment()` is true; whether it came to that."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=(work,))
    process.start()
    while process.is_alive() and not moment():
        time.sleep(0.001)
    if process.is_alive():
        process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _work(work: Callable[[], object]) -> None:
    lock = threading.RLock()  # tqdm's own is shared with the parent, which would wait for it for ever
    for bar in tqdm.__mro__[:-1]:
        if hasattr(bar, "set_lock"):
            bar.set_lock(lock)
    work()
