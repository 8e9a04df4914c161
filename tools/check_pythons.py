"""What ``make test-pythons`` runs: the Python tests on every CPython from 3.10 up that this machine has."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from check import IN_PARALLEL, check_environment_variables
from environment import ROOT, Environment
from stages import Outcome, Stage, close, forget_summary, run_stages

OLDEST = (3, 10)

#: What does not depend on the interpreter is tried at length by ``make test`` alone.
FEWER = {"N_FAULTS": "40", "N_KILLS": "12", "N_PARENT_KILLS": "4", "FEW_PLACES": "1"}
NOT_AGAIN = ("--ignore=tests/test_benches.py", "--ignore=tests/test_site.py")

#: What a version between the oldest and the newest adds to those two is its byte code, its pickles and its library:
#: what is done to machine and processes (kills, signals, memory, terminals), and what the engine does with calls
#: whatever they are, is not tried there again.
NOT_BETWEEN = tuple(
    f"--ignore=tests/{name}.py"
    for name in (
        *(f"test_{name}" for name in ("faults", "kills", "deaths", "signals", "timeouts", "leaks", "memory_limit")),
        *(f"test_{name}" for name in ("worker_memory", "progress", "progress_locks", "relay", "streams_of_output")),
        *(f"test_{name}" for name in ("shared", "shared_inside", "blas", "resources", "graph_resources", "plans")),
        *(f"test_{name}" for name in ("checkpoint", "checkpoint_kills", "dask_programs", "distributed", "clients")),
        *(f"test_{name}" for name in ("docs", "tools", "command_line")),
        *(f"conformance/test_{name}" for name in ("streams", "futures", "hearing", "tolerance", "dask", "sharing")),
        *(f"conformance/test_{name}" for name in ("traces", "callers", "nesting", "checkpoints", "workers")),
        *(f"conformance/test_{name}" for name in ("laziness", "journal", "settings")),
    )
)

PROBE = """
import importlib.util, os, platform, sys, sysconfig
lacks = []
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    lacks.append("headers (Python.h)")
if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
    lacks.append("a complete venv module")
print("%d %d" % sys.version_info[:2], platform.python_version(), platform.python_implementation(),
      sysconfig.get_config_var("Py_GIL_DISABLED") or 0, " and ".join(lacks), os.path.realpath(sys.executable),
      sep="|")
"""


def candidates() -> Iterator[Path]:
    """Name every interpreter on the PATH, and those that pyenv keeps off it."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if folder and Path(folder).is_dir():
            for path in sorted(Path(folder).iterdir()):
                if re.fullmatch(r"python3(\.\d+t?)?", path.name):
                    yield path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob("versions/*/bin/python"))


def probe(candidate: Path) -> list[str] | None:
    """Ask an interpreter what it is; None where it does not run, as a shim of a version not selected."""
    try:
        answer = subprocess.run(
            [candidate, "-I", "-c", PROBE],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        print(f"passed over: {candidate}: {failure}")
        return None
    if answer.returncode != 0:
        reason = next(iter(answer.stderr.strip().splitlines()), "no message")
        print(f"passed over: {candidate} does not run: {reason}")
        return None
    return answer.stdout.strip().split("|")


def interpreters() -> dict[str, Path]:
    """Find one interpreter for each version of CPython, and say why others are passed over."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for candidate in candidates():
        facts = probe(candidate)
        if facts is None:
            continue
        version, full_version, implementation, free_threaded, lacks, real = facts
        if real in seen:
            continue
        seen.add(real)
        name = ".".join(version.split()) + ("t" if free_threaded == "1" else "")
        if implementation != "CPython":
            print(f"passed over: {real}: {implementation}, not CPython")
        elif tuple(map(int, version.split())) < OLDEST:
            print(f"passed over: {real}: {full_version} is older than {'.'.join(map(str, OLDEST))}")
        elif lacks:
            print(f"passed over: {real}: {full_version} has no {lacks}")
        elif name in found:
            print(f"passed over: {real}: {full_version}, version {name} is tested with {found[name]}")
        else:
            found[name] = candidate
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]))


def stages_of(name: str, interpreter: Path, options: Sequence[str] = ()) -> list[Stage]:
    """List what is run for one interpreter: build and install, then the tests and the doctests."""
    environment = Environment(ROOT / ".venvs" / name)
    python = environment.python
    return [
        Stage(
            f"build {name}",
            f"environment and wheel, {interpreter}",
            lambda: [[interpreter, "tools/environment.py", "--venv", environment.folder, "test-python"]],
        ),
        Stage(
            f"tests {name}",
            "tests/ and the examples in docstrings",
            lambda: [
                [python, "-m", "pytest", *IN_PARALLEL, "--ignore", "tests/peers/test_joblib_parallel.py", *options],
                [python, "-m", "pytest", "--doctest-modules", "--pyargs", "manyhands"],
            ],
            needs=(f"build {name}",),
        ),
    ]


def main() -> None:
    """Find the interpreters and run the tests on each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--others", action="store_true", help="not on the version that runs this, which `make test` has tested"
    )
    parser.add_argument("--list", action="store_true", help="only say which interpreters there are")
    arguments = parser.parse_args()
    found = interpreters()
    if arguments.others:
        own = "{}.{}".format(*sys.version_info)
        if found.pop(own, None) is not None:
            print(f"passed over: version {own}, which make test uses")
    sys.stdout.flush()
    if not found and not arguments.others:
        sys.exit("error: no CPython >= 3.10 with headers and venv was found on the PATH or under ~/.pyenv/versions")
    for name, interpreter in found.items():
        print(f"to test: {name}: {interpreter}")
    if arguments.list:
        return
    forget_summary("test-pythons")
    # Not an empty summary, which would say that nothing ran although something should have.
    outcomes = [] if found else [Outcome("tests", "passed", detail="there is no other version here")]
    outermost = {next(iter(found), None), next(reversed(found), None)}
    for name, interpreter in found.items():
        env = check_environment_variables(ROOT / ".venvs" / name / "bin" / "python")
        if arguments.others:
            fewer = NOT_AGAIN if name in outermost else (*NOT_AGAIN, *NOT_BETWEEN)
            outcomes += run_stages(stages_of(name, interpreter, fewer), {**FEWER, **env})
        else:
            outcomes += run_stages(stages_of(name, interpreter), env)
    sys.exit(close("make test-pythons", "test-pythons", outcomes))


if __name__ == "__main__":
    main()
