"""Run every case of manyhands and print the table: ``python -m benches.ours [--quick] [--write]``."""

import argparse
import sys
import time

import manyhands as mh
from benches import measure
from benches.ours import cases
from benches.ours.groups import COLUMNS, GROUPS, Effort, Row
from benches.supervise import Reporter, supervise

LIMIT_S = 690
# With --quick nothing depends on how long it takes, and the machine may do ten other things.
QUICK_PATIENCE = 4


def missed(rows: list[Row]) -> str:
    """Name the promises that were not kept, and what could not be measured."""
    lines, whole = [], ""
    for row in rows:
        is_part = row["case"].startswith("…")
        whole = whole if is_part else row["case"]
        if row.get("reached") == "NO":
            name = f"{whole} {row['case']}" if is_part else row["case"]
            lines.append(f"- {name}: {row['median']}" + (f" (reach {row['reach']})" if row.get("reach") else ""))
    return "### What is missed\n\n" + ("\n".join(lines) or "Nothing.")


def run_groups(names: list[str], n_runs: int, *, is_quick: bool) -> tuple[list[Row], bool]:
    """Run the groups in a process of their own; returns the rows, and whether all could be measured."""
    rows, is_whole = [], True
    command = [sys.executable, "-m", "benches.ours", "--runs", str(n_runs), *(["--quick"] if is_quick else [])]
    patience = QUICK_PATIENCE if is_quick else 1
    end = time.monotonic() + patience * LIMIT_S
    found = supervise([*command, "--child"], names, lambda name: patience * GROUPS[name].limit_s, end)
    for name, row in found:
        if "failed" in row:
            is_whole = False
            row = {"case": f"{name}: could not be measured", "median": row["failed"], "reached": "NO"}
        rows.append(row)
        print(f"{name}:", "  ".join(row[column] for column in COLUMNS if row.get(column)), flush=True)
    return rows, is_whole


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks, to see that it runs; no Rust")
    parser.add_argument(
        "--runs",
        type=int,
        default=None,
        help="timed runs of each case (default 7, at least 5 with --write, 1 with --quick)",
    )
    parser.add_argument("--only", choices=tuple(GROUPS), help="one group of cases")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--child", nargs="+", metavar="GROUP", help=argparse.SUPPRESS)
    options = parser.parse_args()
    n_runs = options.runs or (1 if options.quick else 7)
    if options.write and (options.quick or options.only or n_runs < 5):
        parser.error("--write wants the whole table at full size and at least 5 runs")
    if options.child:
        reporter, effort = Reporter(), Effort(n_runs, 10 if options.quick else 1)
        for name in options.child:
            reporter.run(name, GROUPS[name].at(effort))
        return
    where = f"manyhands {mh.__version__}; {measure.machine()}; {cases.N_WORKERS} workers, warm"
    print(where, flush=True)
    # Cargo may have to build first, and then nothing is quick any more.
    names = (
        [options.only]
        if options.only
        else [name for name in GROUPS if not (options.quick and GROUPS[name].needs_cargo)]
    )
    rows, is_whole = run_groups(names, n_runs, is_quick=options.quick)
    text = measure.table(COLUMNS, [[row.get(column, "") for column in COLUMNS] for row in rows])
    text += "\n\n" + missed(rows)
    print("\n" + text)
    if options.write:
        measure.write_section("ours", f"## manyhands alone\n\n{where}.\n\n{text}")
    sys.exit(not is_whole)


if __name__ == "__main__":
    main()
