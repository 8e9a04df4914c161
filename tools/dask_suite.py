"""Run Dask's own tests, as pip has installed them, with `manyhands.dask.get` in the place of all of Dask's schedulers.

    python tools/dask_suite.py                        # all of delayed, bag, array and dataframe
    python tools/dask_suite.py --bounded              # the part that `make test` runs
    python tools/dask_suite.py --only array -- -k sum # a part, and options for pytest
    python tools/dask_suite.py --own -- -k sum        # the same with Dask's own schedulers, to compare

Needs an environment with requirements/dask-suite.txt; runs in the interpreter it is called with. Tests that are left
out stand in ``dask_suite_deselected.txt`` beside this file, each with its reason.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DESELECTED = HERE / "dask_suite_deselected.txt"

# Files and folders of Dask's, by what they test.
PARTS = {
    "delayed": ["tests/test_delayed.py", "tests/test_base.py", "tests/test_callbacks.py"],
    "bag": ["bag/tests"],
    "array": ["array/tests"],
    "dataframe": ["dataframe/tests", "dataframe/dask_expr/tests", "dataframe/io/tests", "dataframe/tseries/tests"],
}

# What fits into two or three minutes of a core and meets every way in which Dask's collections make and run graphs.
BOUNDED = [
    "tests/test_delayed.py",
    "tests/test_callbacks.py",
    "bag/tests/test_bag.py",
    "array/tests/test_array_core.py",
    "array/tests/test_array_function.py",
    "array/tests/test_gufunc.py",
    "array/tests/test_map_blocks.py",
    "array/tests/test_optimization.py",
    "array/tests/test_percentiles.py",
    "array/tests/test_reshape.py",
    "array/tests/test_shuffle.py",
    "array/tests/test_xarray.py",
    "array/tests/test_atop.py",
    "array/tests/test_rechunk.py",
    "array/tests/test_stats.py",
    "dataframe/dask_expr/tests/test_core.py",
    "dataframe/dask_expr/tests/test_fusion.py",
    "dataframe/dask_expr/tests/test_reductions.py",
    "dataframe/tests/test_accessors.py",
    "dataframe/tests/test_boolean.py",
    "dataframe/tests/test_categorical.py",
    "dataframe/tests/test_extensions.py",
    "dataframe/tests/test_hashing.py",
    "dataframe/tests/test_hyperloglog.py",
    "dataframe/tests/test_indexing.py",
    "dataframe/tests/test_map.py",
    "dataframe/tests/test_pyarrow.py",
    "dataframe/tests/test_utils_dataframe.py",
]


def deselected(scheduler: str) -> Iterator[str]:
    """Read the tests that are left out: below a heading for all schedulers, and for this one."""
    is_meant = True
    for line in DESELECTED.read_text().splitlines():
        if line.startswith("["):
            is_meant = line.strip("[] ") in ("all", scheduler)
        elif line and not line.startswith("#") and is_meant:
            yield line.split()[0]


def command(files: list[str], scheduler: str | None, options: list[str]) -> list[str]:
    """Compose the call of pytest; without a scheduler, everything runs on Dask's own, and nothing is left out."""
    import dask

    root = Path(dask.__file__).parent
    words = [sys.executable, "-m", "pytest", "-q", "-c", str(HERE / "dask_suite.ini")]
    words += ["--rootdir", str(root.parent), "-p", "no:cacheprovider", "-r", "fE", "--tb", "short"]
    if scheduler is None:
        return [*words, *options, *(str(root / file) for file in files)]
    words += ["-p", "dask_suite_plugin"]
    # By the path from where pytest looks, which is the folder that Dask's package is in.
    words += [f"--deselect=dask/{name}" for name in deselected(scheduler)]
    return [*words, *options, *(str(root / file) for file in files)]


def main() -> None:
    """Run pytest, and end as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bounded", action="store_true", help="only what make test runs")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--own", action="store_true", help="on Dask's own schedulers")
    parser.add_argument("--scheduler", default="threads", help="the engine's scheduler; threads by default")
    parser.add_argument("options", nargs="*", help="for pytest, after --")
    arguments = parser.parse_args()
    parts = [file for part in arguments.only or PARTS for file in PARTS[part]]
    files = BOUNDED if arguments.bounded else parts
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Two workers, so that tasks meet whatever machine this is.
    env = {
        **os.environ,
        "PYTHONPATH": path,
        "MANYHANDS_SCHEDULER": arguments.scheduler,
        "MANYHANDS_NUM_WORKERS": os.environ.get("MANYHANDS_NUM_WORKERS", "2"),
    }
    words = command(files, None if arguments.own else arguments.scheduler, arguments.options)
    sys.exit(subprocess.run(words, env=env, check=False).returncode)


if __name__ == "__main__":
    main()
