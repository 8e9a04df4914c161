"""Run the cases on manyhands and on every peer: ``benches/peers/run.sh [--write]``."""

import argparse
import contextlib
import importlib.metadata
import sys
import time
from collections.abc import Iterator

from benches import measure
from benches.measure import duration
from benches.peers import cases
from benches.peers.cases import CASES, LIMIT_S, LIMITS_S, Cases, Figure
from benches.peers.engines import ENGINES, N_WORKERS, OURS, PEERS, Engine
from benches.supervise import Reporter, supervise

TOTAL_S = 630
HEADER = ("case", "engine", "settings", "size", "median", "runs", "manyhands", "times ours")
ORDER = (
    *("map", "graph", "submit", "first result", "8 ×", "tasks that", "Executor", "GridSearchCV", "RandomForest"),
    *("METG", "makespan", "tree", "merge", "nested l"),
)

Row = tuple[str, ...]


def run_child(name: str, names: list[str], shrink: int) -> None:
    """Open one engine, run its cases and report what they find; what cannot be opened fails as a case."""
    engine, reporter = ENGINES[name], Reporter()
    with contextlib.ExitStack() as stack:
        opened: list[Cases] = []

        def open_engine() -> Iterator[Figure]:
            if not engine.installed():
                raise ModuleNotFoundError(f"{engine.module} is not installed")
            offer, is_parallel = stack.enter_context(engine.open()), not name.endswith("threads")
            is_ours = name.startswith("manyhands")
            opened.append(Cases(offer, is_ours=is_ours, computes_in_parallel=is_parallel, shrink=shrink))
            yield from ()

        for case in names:
            if case == "open":
                reporter.run(case, open_engine)
                if not opened:
                    return
            elif case == "first result":
                reporter.run(case, lambda: cases.first_result(engine, shrink))
            else:
                if not opened:
                    list(open_engine())
                reporter.run(case, lambda case=case: CASES[case](opened[0]))  # type: ignore[misc]


def figures(engine: Engine, options: argparse.Namespace, end: float) -> Iterator[Figure]:
    """Everything one engine gives, in a process of its own."""
    command = [sys.executable, "-m", "benches.peers", "--child", engine.name, *(["--quick"] if options.quick else [])]
    # Fresh interpreters come first, while nothing of the engine runs.
    names = ["first result", "open", *CASES]
    if options.case:
        names = ["open", *(name for name in names if name != "open" and options.case in name)]
    for name, found in supervise([*command, "--cases"], names, lambda name: LIMITS_S.get(name, LIMIT_S), end):
        yield {"case": name, **found} if "failed" in found else found
        if "failed" in found and name == "open":
            return


def text_of(figure: Figure, value: float) -> str:
    """A figure with its unit."""
    return str(figure.get("prefix", "")) + (
        duration(value) if figure["unit"] == "s" else f"{value:.2f} {figure['unit']}"
    )


class Comparison:
    """Rows of the table, with what manyhands took in the same case and size."""

    def __init__(self) -> None:
        self.ours: dict[tuple[str, str, str], Figure] = {}
        self.slower: list[str] = []

    def keep_ours(self, engine: Engine, found: Figure) -> None:
        """Remember a figure of ours."""
        if "failed" not in found:
            self.ours[engine.name, found["case"], found["size"]] = found

    def row(self, engine: Engine, found: Figure) -> Row:
        """One line of the table."""
        if "failed" in found:
            return found["case"], engine.name, "", "", found["failed"], "", "", ""
        like = OURS["threads" if engine.name.endswith("threads") else "processes"].name
        ours = self.ours.get((like, found["case"], found["size"]))
        ratio = found["value"] / ours["value"] if ours and ours["value"] > 0.05e-6 else None
        # A growth of nothing but noise is no measure for others.
        if ours and found["unit"] == "× the array" and ours["value"] < 0.05:
            ratio = None
        if ratio is not None and ratio < 1:
            what = f"{found['case']}, {found['size']}: {engine.name}, {found['settings']}"
            self.slower.append(f"- {what}: {ratio:.2f} times ours")
        return (
            found["case"],
            engine.name,
            found["settings"],
            found["size"],
            text_of(found, found["value"]),
            str(found["runs"]),
            text_of(ours, ours["value"]) if ours else "",
            "" if ratio is None else f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}",
        )


def place(row: Row) -> int:
    """Where a row's case stands in the table; those that failed last."""
    if row[4] and not row[5]:
        return len(ORDER) + 1
    return next((i for i, beginning in enumerate(ORDER) if row[0].startswith(beginning)), len(ORDER))


def versions() -> str:
    """The versions of what is compared; standard-library engines carry the interpreter's."""
    names = ("manyhands", "dask", "distributed", "joblib", "ray", "numpy", "scikit-learn")
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def compare(options: argparse.Namespace) -> str:
    """Run everything and return the tables."""
    end = time.monotonic() + options.limit
    comparison = Comparison()
    for engine in OURS.values():
        for found in figures(engine, options, end):
            comparison.keep_ours(engine, found)
            value = found["failed"] if "failed" in found else text_of(found, found["value"])
            print(engine.name, found["case"], found.get("size", ""), value, sep="  ", flush=True)
    engines = [engine for engine in PEERS if (options.only or "").lower() in engine.name.lower()]
    rows = []
    for i, engine in enumerate(engines):
        now = time.monotonic()
        # A slow engine may take what quick ones leave, but not what those after it need.
        share = 2 * (end - now) / (len(engines) - i)
        for found in figures(engine, options, min(end, now + share)):
            rows.append(comparison.row(engine, found))
            print("  ".join(cell for cell in rows[-1] if cell), flush=True)
    rows.sort(key=lambda row: (place(row), row[0]))
    text = measure.table(HEADER, rows)
    return text + "\n\n### Where a peer is ahead\n\n" + ("\n".join(comparison.slower) or "Nowhere.")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks, to see that it runs")
    parser.add_argument("--only", help="engines whose name contains this")
    parser.add_argument("--case", help="cases whose name contains this")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--limit", type=float, default=TOTAL_S, help="seconds that all may take (default %(default)s)")
    parser.add_argument("--child", metavar="ENGINE", help=argparse.SUPPRESS)
    parser.add_argument("--cases", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, options.cases, 10 if options.quick else 1)
        return
    if options.write and (options.quick or options.only or options.case):
        parser.error("--write wants the whole table at full size")
    where = f"{versions()}; {measure.machine()}; {N_WORKERS} workers"
    print(where, flush=True)
    text = compare(options)
    print("\n" + text)
    if options.write:
        measure.write_section("peers", f"## manyhands beside its peers\n\n{where}.\n\n{text}")


if __name__ == "__main__":
    main()
