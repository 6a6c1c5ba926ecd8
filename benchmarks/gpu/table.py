"""What `gpu_check.sh` measured, short: `python benchmarks/gpu/table.py DIR`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def attention_lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """Microseconds of each size, its floor, and how many times longer torch takes."""
    for entry in results:
        if "heads" not in entry:
            continue
        peers = [entry[name] for name in ("sdpa_us", "sdpa_packed_us", "flex_us") if isinstance(entry.get(name), float)]
        size = f"{'-'.join(map(str, entry['heads']))} N={entry['nodes']} context {entry['context']}"
        ratio = f"best peer {min(peers) / entry['vispec_us']:5.2f}x" if peers else "no peer ran"
        yield f"{size:36} {entry['vispec_us']:8.1f} us, floor {entry['floor_us']:7.1f} ({entry['bound_by']}), {ratio}"


def operator_lines(results: list[dict[str, Any]]) -> Iterator[str]:
    for entry in results:
        if "operator" in entry:
            time = entry.get("vispec_us", entry.get("torch_us"))
            floor = f", floor {entry['floor_us']:7.1f}" if "floor_us" in entry else ""
            yield f"{entry['operator']:36} {time:8.1f} us{floor}"


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
        print(f"{found['machine']}\ncopy {found['copy_bytes_per_second'] / 1e12:.2f} TB/s")
        print("\n".join((*operator_lines(found["results"]), *attention_lines(found["results"]))))
    if decoding.is_file():
        print("\n".join(decoding_lines(json.loads(decoding.read_text()))))


if __name__ == "__main__":
    main()
