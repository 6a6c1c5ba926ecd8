"""What `gpu_check.sh` measured, short: `python benchmarks/gpu/table.py DIR`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPERATORS = "operators.json"  # of the kernel benchmarks; all others are summaries of `vispec bench`


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
    """Of a summary of `vispec bench`: every method on all prompts, and the cost model's word on ours."""
    yield f"{result['facts']['target']}; acceptance {result['facts']['acceptance']}"
    explained = {row["method"]: row for row in result["explained"]["rows"]}
    for row in result["rows"]:
        if row["kind"] != "all":
            continue
        notes = [f"{row['speed_up']['median']:.2f}x {row['baseline']}"]
        if "speculation" in row:
            notes.append(f"tau {row['speculation']['mean_accepted'] or 0:.2f}")
        if row["method"] in explained:
            predicted, measured = explained[row["method"]]["cycle_ms"]
            roofline = explained[row["method"]]["roofline_ms"]
            notes.append(f"cycle {measured:.2f} ms, {measured / roofline:.2f}x roofline, predicted {predicted:.2f}")
        if row["texts"]:
            notes.append("texts same, tie, other: {same}, {near_tie}, {other}".format(**row["texts"]))
        yield f"  {row['method']:46} {row['tokens_per_second']:8.1f} tokens/s  {', '.join(notes)}"
    yield from (f"  {method} does not run: {reason}" for method, reason in result["failed"].items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for file in sorted(folder.glob("*.json"), key=lambda file: (file.name != OPERATORS, file.name)):
        found = json.loads(file.read_text())
        if file.name == OPERATORS:
            print("\n".join((str(found["machine"]), *kernel_lines(found["results"]))))
        else:
            print("\n".join(decoding_lines(found)))


if __name__ == "__main__":
    main()
