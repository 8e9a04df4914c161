"""The parts that are measured in Rust: examples and simulations that cargo runs, read from what they print."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def cargo(*arguments: str, limit_s: float = 300) -> str:
    """Run cargo in release mode and return what it prints."""
    if shutil.which("cargo") is None:
        raise FileNotFoundError("cargo is not on the PATH: the parts in Rust cannot be measured")
    verb, *rest = arguments
    ended = subprocess.run(
        ["cargo", verb, "--quiet", "--release", *rest],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"cargo {' '.join(arguments)} ended with {ended.returncode}: {ended.stderr.strip()[-300:]}")
    return ended.stdout


def example(package: str, name: str, *options: str) -> Iterator[dict[str, Any]]:
    """The lines of JSON that an example prints."""
    for line in cargo("run", "-p", package, "--example", name, "--", "--json", *options).splitlines():
        yield json.loads(line)


def simulated_makespans() -> dict[str, float]:
    """The largest makespan as a multiple of the best possible, by case and number of workers."""
    worst: dict[str, float] = {}
    text = cargo("test", "-p", "manyhands-executor", "--test", "simulated_figures", "--", "--nocapture", "slow")
    for found in re.finditer(r"^(?:test \S+ \.\.\. )?(.+): [\d.]+ ms, ([\d.]+) of the best", text, re.MULTILINE):
        what, ratio = found[1], float(found[2])
        workers = re.search(r"on (\d+)$", what)
        if workers is None:
            continue
        if what.startswith("slow ones"):
            case = f"10,000 × 100 µs with four of 1 s at 21 places, {workers[1]} workers"
        elif what.startswith("4 slow and 12 fast"):
            case = f"4 slow + 12 fast in all 1820 orders, {workers[1]} workers"
        else:
            continue
        worst[case] = max(worst.get(case, 0.0), ratio)
    if not worst:
        raise RuntimeError("the simulation printed no makespan")
    return worst


Peaks = list[int]


def results_alive() -> list[tuple[str, Peaks, Peaks]]:
    """For each shape, the most results alive with 1, 2 and 4 workers: ours and Dask's."""
    text = cargo("test", "-p", "manyhands-executor", "--test", "simulated_order", "--", "--nocapture")
    found = re.findall(r"^(?:test \S+ \.\.\. )?(.+): \[(.+)\], Dask's \[(.+)\]$", text, re.MULTILINE)
    if not found:
        raise RuntimeError("the simulation printed no shape")
    return [
        (shape, [int(peak) for peak in ours.split(",")], [int(peak) for peak in dask.split(",")])
        for shape, ours, dask in found
    ]
