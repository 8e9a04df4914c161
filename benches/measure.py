"""What every benchmark shares: repeated timing, a line on the machine, tables, and the results file."""

import datetime
import gc
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs of the same thing."""

    runs_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Half of the runs took less."""
        return statistics.median(self.runs_s)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """The ends of the middle half of the runs."""
        if len(self.runs_s) == 1:
            return self.runs_s[0], self.runs_s[0]
        low, _, high = statistics.quantiles(self.runs_s, n=4, method="inclusive")
        return low, high

    def __sub__(self, baseline_s: float) -> "Timing":
        return Timing(tuple(run_s - baseline_s for run_s in self.runs_s))


def measure(run: Callable[[], object], n_runs: int) -> Timing:
    """Time `n_runs` runs after one that does not count, and collect the garbage between them."""
    run()
    runs_s = []
    for _ in range(n_runs):
        gc.collect()
        begin = time.perf_counter()
        run()
        runs_s.append(time.perf_counter() - begin)
    return Timing(tuple(runs_s))


def measure_within(run: Callable[[], object], n_runs: int, budget_s: float) -> Timing:
    """Time up to `n_runs` runs after one that does not count, no more than fit into `budget_s`.

    Where the first run alone takes as long, it is the one that counts.
    """
    began = time.perf_counter()
    run()
    runs_s: list[float] = []
    first_s = time.perf_counter() - began
    while len(runs_s) < n_runs and time.perf_counter() - began + first_s < budget_s:
        gc.collect()
        begin = time.perf_counter()
        run()
        runs_s.append(time.perf_counter() - begin)
    return Timing(tuple(runs_s) or (first_s,))


def measure_each(run: Callable[[], object], n_runs: int) -> Timing:
    """Time many short runs one by one, after a tenth as many that do not count."""
    for _ in range(max(1, n_runs // 10)):
        run()
    gc.collect()
    runs_s = []
    for _ in range(n_runs):
        begin = time.perf_counter()
        run()
        runs_s.append(time.perf_counter() - begin)
    return Timing(tuple(runs_s))


@dataclass(frozen=True)
class FreshRun:
    """One program in an interpreter of its own."""

    inside_s: float
    """From before the first import to the first result, as the program itself saw it."""
    result_s: float
    """From the start of the interpreter to the first result."""
    exit_s: float
    """From the start of the interpreter to its end."""


def run_fresh(program: str) -> FreshRun:
    """Run a program that ends by printing ``result <seconds since its begin>``, in a fresh interpreter."""
    source = (
        f"import time; begin = time.perf_counter()\n{program}\nprint('result', time.perf_counter() - begin, flush=True)"
    )
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        inside_s = result_s = math.nan
        for line in process.stdout:
            if line.startswith("result "):
                inside_s, result_s = float(line.split()[1]), time.perf_counter() - begin
        status = process.wait()
    if status != 0 or math.isnan(inside_s):
        raise RuntimeError(f"the program ended with status {status} and without its result line:\n{source}")
    return FreshRun(inside_s, result_s, time.perf_counter() - begin)


def measure_import(statement: str, n_runs: int) -> Timing:
    """Time `statement` in fresh interpreters, beyond what an interpreter costs that does nothing."""

    def interpreter_s(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    interpreter_s(statement)
    # Pairs, taken in turn: what else the machine does meanwhile falls on both alike.
    pairs = [(interpreter_s("pass"), interpreter_s(statement)) for _ in range(n_runs)]
    baseline_s = statistics.median(empty_s for empty_s, _ in pairs)
    return Timing(tuple(full_s for _, full_s in pairs)) - baseline_s


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best, with three figures."""
    size = abs(seconds)
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if size * factor >= 1:
            value = seconds * factor
            decimals = max(0, 2 - int(math.log10(abs(value))))
            return f"{value:.{decimals}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def spread(timing: Timing) -> str:
    """The middle half of the runs."""
    low_s, high_s = timing.quartiles_s
    return f"{duration(low_s)} – {duration(high_s)}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is also aligned as plain text."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except FileNotFoundError:
        pass
    return platform.processor() or platform.machine()


def machine() -> str:
    """One line on where and when a table was made."""
    load = os.getloadavg()[0]
    return (
        f"{datetime.date.today().isoformat()}; {os.cpu_count()} cores, {processor()}; {platform.system()} "
        f"{platform.release().split('-')[0]}; CPython {platform.python_version()}; load before {load:.1f}"
    )


def write_section(name: str, text: str) -> None:
    """Replace the part of RESULTS.md between the markers of `name`; append it where there is none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    if begin in old:
        head, rest = old.split(begin, 1)
        new = head + section + rest.split(end, 1)[1]
    else:
        new = old.rstrip() + "\n\n" + section + "\n"
    RESULTS.write_text(new, encoding="utf-8")
