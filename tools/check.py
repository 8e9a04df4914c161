"""What ``make test`` runs: everything that must hold, stage by stage."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from environment import ROOT, Environment, EnvironmentFailure, cargo_environment
from stages import Command, Stage, close, forget_summary, run_stages

N_SIMULATED_CASES = 10_000

STUBTEST_OPTIONS = (
    "--mypy-config-file",
    "pyproject.toml",
    "--allowlist",
    "tools/stubtest_allowlist.txt",
    # Which classes are such depends on the interpreter: room for weak references counts from 3.12 on.
    "--ignore-disjoint-bases",
)
# Not that of the Python face: what it documents, it documents for Python.
RUST_DOCS = ("--workspace", "--exclude", "manyhands-python", "--no-deps", "--document-private-items")
RELEASE = ("--release", "--locked")
# They have a stage of their own, and are run on one Python only; CPython's own wherever it was installed with them.
WITHOUT_PEERS = ("--ignore", "tests/peers")
# Most tests wait for other processes now and then. More at once have timings that no machine with fewer CPUs has.
IN_PARALLEL = ("-n", str(min(len(os.sched_getaffinity(0)), 4)), "--dist", "worksteal")


def all_stages(environment: Environment) -> list[Stage]:
    """List the stages, the quickest to fail first."""
    return [*cheap_stages(environment), *rust_stages(), *python_stages(environment)]


def cheap_stages(environment: Environment) -> list[Stage]:
    """List the stages that read text and build next to nothing."""
    python = environment.python
    return [
        Stage(
            "environment",
            "the Python environment of the tests",
            lambda: [
                [
                    sys.executable,
                    "tools/environment.py",
                    "--without-package",
                    "--venv",
                    environment.folder,
                    "test",
                ]
            ],
        ),
        Stage("rust-format", "cargo fmt", lambda: [["cargo", "fmt", "--all", "--check"]]),
        Stage("tidy", "the rules of the repository", lambda: [["cargo", "xtask", "tidy"]]),
        Stage(
            "ruff",
            "format and lint of Python",
            lambda: [[python, "-m", "ruff", "format", "--check", "."], [python, "-m", "ruff", "check", "."]],
            needs=("environment",),
        ),
        Stage(
            "mypy",
            "strict types of the package and the tools",
            lambda: [[python, "-m", "mypy"]],
            needs=("environment",),
        ),
    ]


def rust_stages() -> list[Stage]:
    """List the stages that build Rust. All use the release profile, so that things are built once."""
    return [
        Stage(
            "clippy",
            "lints of all targets, warnings are errors",
            lambda: [["cargo", "clippy", "--workspace", "--all-targets", *RELEASE, "--", "-D", "warnings"]],
            needs=("environment",),
        ),
        Stage("rust-tests", "unit, integration and doc tests", rust_test_commands),
        Stage("rust-examples", "the Rust examples run", rust_example_commands),
        Stage(
            "rust-docs",
            "the documentation builds, that of private items included, and its links lead somewhere",
            lambda: [["cargo", "doc", *RUST_DOCS, *RELEASE]],
            env={"RUSTDOCFLAGS": "-D warnings"},
        ),
        Stage(
            "simulation",
            f"{N_SIMULATED_CASES} random schedules",
            lambda: [["cargo", "xtask", "simulate", "--cases", str(N_SIMULATED_CASES)]],
        ),
    ]


def rust_test_commands() -> list[Command]:
    """Prefer nextest, which names a test that hangs; it leaves doc tests to cargo test."""
    if shutil.which("cargo-nextest"):
        return [["cargo", "nextest", "run", *RELEASE], ["cargo", "test", "--doc", *RELEASE]]
    return [["cargo", "test", *RELEASE]]


def rust_example_commands() -> list[Command]:
    """Name each example of the Rust face."""
    examples = sorted((ROOT / "crates" / "manyhands" / "examples").glob("*.rs"))
    if not examples:
        raise EnvironmentFailure("crates/manyhands/examples holds no example to run")
    return [
        ["cargo", "run", "--quiet", *RELEASE, "--package", "manyhands", "--example", example.stem]
        for example in examples
    ]


def python_stages(environment: Environment) -> list[Stage]:
    """List the stages that need the package installed."""
    python = environment.python
    return [
        Stage(
            "package",
            "the wheel builds and installs",
            lambda: [[sys.executable, "tools/environment.py", "--venv", environment.folder, "test"]],
            needs=("environment",),
        ),
        Stage(
            "stubs",
            "the stubs say what the built module has",
            lambda: [[python, "-m", "mypy.stubtest", *stub_modules(), *STUBTEST_OPTIONS]],
            needs=("package",),
        ),
        Stage(
            "python-tests",
            "tests/, which run the examples and the snippets of documents too",
            lambda: [[python, "-m", "pytest", *IN_PARALLEL, *WITHOUT_PEERS]],
            needs=("package",),
        ),
        Stage(
            "peers",
            "the peers' own tests, run on manyhands",
            lambda: [[python, "-m", "pytest", "tests/peers"]],
            needs=("package",),
        ),
        Stage(
            "python-doctests",
            "the examples in docstrings",
            lambda: [[python, "-m", "pytest", "--doctest-modules", "--pyargs", "manyhands"]],
            needs=("package",),
        ),
        Stage(
            "site",
            "the documentation site builds without a warning, and its links lead somewhere",
            lambda: [[python, "tools/build_site.py"]],
            needs=("package",),
        ),
        Stage(
            "dask-suite",
            "a part of Dask's own tests, on our scheduler",
            lambda: [
                [sys.executable, "tools/environment.py", "--venv", ROOT / ".venvs" / "dask-suite", "dask-suite"],
                [ROOT / ".venvs" / "dask-suite" / "bin" / "python", "tools/dask_suite.py", "--bounded"],
            ],
            needs=("package",),
        ),
    ]


def stub_modules() -> list[str]:
    """Name the modules that are typed by a stub; the others carry their types themselves."""
    stubs = sorted((ROOT / "python" / "manyhands").rglob("*.pyi"))
    if not stubs:
        raise EnvironmentFailure("python/manyhands holds no stub (*.pyi), not even for the native module")
    names = [".".join(stub.relative_to(ROOT / "python").with_suffix("").parts) for stub in stubs]
    return [name.removesuffix(".__init__") for name in names]


def check_environment_variables(python: Path) -> dict[str, str]:
    """Return the caller's variables without those that change what is tested."""
    env = cargo_environment(python)
    return {
        name: value
        for name, value in env.items()
        if name not in {"PYTHONPATH", "PYTHONHOME"} and not name.startswith("MANYHANDS_")
    }


def choose(stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    """Pick the named stages, and before them the ones they need."""
    by_name = {stage.name: stage for stage in stages}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        sys.exit(f"error: no stage is called {', '.join(unknown)}; there are: {', '.join(by_name)}")
    chosen = set(names)
    for stage in reversed(stages):
        if stage.name in chosen:
            chosen.update(stage.needs)
    return [stage for stage in stages if stage.name in chosen]


def main() -> None:
    """Run all stages, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", help="only these, and what they need")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--list", action="store_true", help="list the stages")
    arguments = parser.parse_args()
    environment = Environment(arguments.venv)
    stages = all_stages(environment)
    if arguments.list:
        for stage in stages:
            print(f"{stage.name:<16} {stage.why}")
        return
    forget_summary("test")
    os.environ.pop("VIRTUAL_ENV", None)
    chosen = choose(stages, arguments.stages) if arguments.stages else stages
    outcomes = run_stages(chosen, check_environment_variables(environment.python))
    sys.exit(close("make test", "test", outcomes))


if __name__ == "__main__":
    main()
