"""What `gpu_check.sh` measured, short: `python benchmarks/gpu/table.py DIR`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def kernel_lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Microseconds of each size, its roofline, and how many times longer the fastest peer takes."""
    for result in results:
        times = dict(result["median_us"])
        ours = times.pop("vispec", None)
        if ours is None:
            yield f"{result['group']}: vispec did not run"
            continue
        peer = min(times, key=times.__getitem__, default=None)
        best = "no peer ran" if peer is None else f"{peer} takes {times[peer] / ours:.2f} times as long"
        yield f"{result['group']}: {ours:.1f} us, roofline {result['roofline_us']:.1f} ({result['bound_by']}), {best}"


def decoding_lines(result: dict[str, Any]) -> Iterator[str]:
    runs = [(f"pair {run['dtype']}", run) for run in result["pair"]]
    runs += [(f"{run['target']} (simulated acceptance)", run) for run in result["simulated"]]
    for name, run in runs:
        yield name
        for row in run["rows"]:
            notes = [f"tau {row['mean_accepted']:.2f}"] if "mean_accepted" in row else []
            notes += (
                [f"cycle {row['cycle_ms']:.2f} ms, {row['cycle_over_floor']:.2f}x floor"] if "cycle_ms" in row else []
            )
            notes += [f"identical: {row['identical']}"] if "identical" in row else []
            yield f"  {row['decoder']:58} {row['tokens_per_second']:8.1f} tokens/s  {', '.join(notes)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    operators, decoding = folder / "operators.json", folder / "end_to_end.json"
    if operators.is_file():
        found = json.loads(operators.read_text())
        print("\n".join((str(found["machine"]), *kernel_lines(found["results"]))))
    if decoding.is_file():
        print("\n".join(decoding_lines(json.loads(decoding.read_text()))))


if __name__ == "__main__":
    main()
