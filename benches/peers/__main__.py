"""Run the cases on manyhands and on every peer: ``benches/peers/run.sh [--write]``."""

import argparse
import contextlib
import functools
import importlib.metadata
import sys
import time
from collections.abc import Iterator

from benches import measure
from benches.measure import duration
from benches.peers import cases
from benches.peers.cases import CASES, LIMIT_S, LIMITS_S, Cases, Figure
from benches.peers.engines import ENGINES, N_WORKERS, OURS, PEERS, Engine
from benches.peers.groups import GROUPS, Group
from benches.supervise import Reporter, supervise

TOTAL_S = 1560.0
ENGINES_S = 560.0
"""What the table of all engines may take of that."""
ENGINES_GROUP = "engines"
HEADER = ("case", "engine", "settings", "size", "median", "runs", "manyhands", "times ours")
ORDER = (
    *("map", "graph", "submit", "first result", "8 ×", "tasks that"),
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
    names = ("manyhands", "dask", "distributed", "joblib", "ray", "numpy", "scikit-learn", "pandas")
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def compare(options: argparse.Namespace, end: float) -> str:
    """Run all engines and return the table."""
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


def run_group(group: Group, options: argparse.Namespace, end: float) -> str:
    """Run the cases of a group in a process of their own, and return its table."""
    command = [sys.executable, "-m", "benches.peers", "--child", group.name, *(["--quick"] if options.quick else [])]
    names = [name for name in group.cases if (options.case or "") in name]
    end = min(end, time.monotonic() + group.limit_s)
    rows: list[Row] = []
    for name, found in supervise([*command, "--cases"], names, lambda _name: group.limit_s, end):
        row = found.get("row") or [name, found["failed"]]
        rows.append((*row, *[""] * (len(group.header) - len(row))))
        print("  ".join(cell for cell in rows[-1] if cell), flush=True)
    return measure.table(group.header, rows)


def group_child(group: Group, names: list[str], shrink: int) -> None:
    """Be such a process."""
    reporter = Reporter()
    for name in names:
        reporter.run(name, functools.partial(group.cases[name], shrink))


def run_wanted(options: argparse.Namespace) -> None:
    """Run the groups that are wanted one after the other, and write each table when it is there."""
    end = time.monotonic() + options.limit
    groups = {group.name: group for group in GROUPS}
    for name in options.group or [*groups, ENGINES_GROUP]:
        where = f"{versions()}; {measure.machine()}; {N_WORKERS} workers"
        print(f"\n{name}: {where}", flush=True)
        if name == ENGINES_GROUP:
            title, about = "manyhands beside its peers", ""
            text = compare(options, min(end, time.monotonic() + ENGINES_S))
        else:
            title, about = groups[name].title, f"\n\n{groups[name].about}"
            text = run_group(groups[name], options, end)
        print(f"\n{text}", flush=True)
        if options.write:
            section = "peers" if name == ENGINES_GROUP else f"peers, {name}"
            measure.write_section(section, f"## {title}\n\n{where}.{about}\n\n{text}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [group.name for group in GROUPS]
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks, to see that it runs")
    parser.add_argument("--group", nargs="+", choices=[*names, ENGINES_GROUP], help="the tables that are wanted")
    parser.add_argument("--only", help="of the table of engines, those whose name contains this")
    parser.add_argument("--case", help="cases whose name contains this")
    parser.add_argument("--write", action="store_true", help="put each table into RESULTS.md when it is there")
    parser.add_argument("--limit", type=float, default=TOTAL_S, help="seconds that all may take (default %(default)s)")
    parser.add_argument("--child", metavar="ENGINE", help=argparse.SUPPRESS)
    parser.add_argument("--cases", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shrink = 10 if options.quick else 1
    if options.child in names:
        group_child(next(group for group in GROUPS if group.name == options.child), options.cases, shrink)
        return
    if options.child:
        run_child(options.child, options.cases, shrink)
        return
    if options.only and not options.group:
        options.group = [ENGINES_GROUP]
    if options.write and (options.quick or options.only or options.case):
        parser.error("--write wants whole tables at full size")
    run_wanted(options)


if __name__ == "__main__":
    main()
