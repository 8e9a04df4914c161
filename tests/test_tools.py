"""The tools behind make say plainly what is missing, what failed, and where an environment came from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCTOR = ROOT / "tools" / "doctor.sh"

sys.path.insert(0, str(ROOT / "tools"))

import check  # noqa: E402
import environment  # noqa: E402
import stages  # noqa: E402

# What the doctor asks of each tool, answered as a machine that has everything would.
HEALTHY = {
    "cargo": "exit 0",
    "rustc": "echo 'rustc 1.88.0 (0000000 2025-06-23)'",
    "cc": "exit 0",
}


@pytest.fixture
def machine(tmp_path):
    """Return a function that makes a PATH of made-up tools and asks the doctor about it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("rm", "mktemp", "cat"):
        os.symlink(shutil.which(name), tools / name)
    header = tmp_path / "Python.h"
    header.touch()

    def python(version="3.10", venv=True, headers=True):
        return f"""
            case "$2" in
                *version_info*) echo {version} ;;
                *ensurepip*) exit {0 if venv else 1} ;;
                *include*) echo {header if headers else tmp_path / "missing" / "Python.h"} ;;
            esac"""

    def examine(purpose="demo", python_name="python3", **changes):
        scripts = {**HEALTHY, "python3": python(), **changes}
        for name, script in scripts.items():
            if script is not None:
                (tools / name).write_text(f"#!/bin/sh\n{script}\n")
                (tools / name).chmod(0o755)
        return subprocess.run(
            ["/bin/sh", DOCTOR, python_name, purpose],
            env={"PATH": str(tools)},
            capture_output=True,
            text=True,
        )

    examine.python = python
    return examine


def test_a_healthy_machine_is_told_nothing(machine):
    answer = machine("test")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cargo": None}, ["cargo, Rust's build tool, is not on the PATH", "rustup.rs"]),
        ({"cargo": "exit 1"}, ["cargo is on the PATH but does not run", "rustup default stable"]),
        ({"rustc": None}, ["rustc, the Rust compiler, is not on the PATH", "rustup.rs"]),
        ({"rustc": "exit 1"}, ["rustc is on the PATH but does not run"]),
        (
            {"rustc": "echo 'rustc 1.63.0'"},
            ["Rust is too old: found 1.63.0, needed 1.88", "rustup update stable"],
        ),
        ({"cc": None}, ["cc", "apt install build-essential", "dnf install gcc"]),
        ({"cc": "exit 1"}, ["cannot link", "apt install build-essential"]),
        (
            {"python3": None},
            ["Python ('python3') is not on the PATH", "apt install python3"],
        ),
        (
            {"python3": "exit 127"},
            ["Python ('python3') is on the PATH but does not run", "make demo PYTHON="],
        ),
    ],
)
def test_what_is_missing_is_named_with_what_to_install(machine, changes, said):
    answer = machine(**changes)
    assert answer.returncode == 1
    for words in said:
        assert words in answer.stderr
    assert answer.stderr.count("missing: ") == 2, "the complaint, and the count at the end"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"version": "3.9"}, ["too old: found 3.9, needed 3.10", "PYTHON=python3.12"]),
        ({"version": "2.7"}, ["too old: found 2.7"]),
        ({"venv": False}, ["venv module", "apt install python3-venv"]),
        (
            {"headers": False},
            ["headers", "missing/Python.h", "apt install python3-dev", "dnf install python3-devel"],
        ),
    ],
)
def test_a_python_that_will_not_do_is_told_why(machine, facts, said):
    answer = machine(python3=machine.python(**facts))
    assert answer.returncode == 1
    for words in said:
        assert words in answer.stderr


def test_everything_missing_is_said_at_once(machine):
    answer = machine(cargo=None, rustc=None, cc=None, python3=None)
    assert answer.returncode == 1
    assert "(missing: 4)" in answer.stderr


def test_other_systems_than_linux_are_told_at_once(machine):
    answer = machine(uname="echo Darwin", cargo=None)
    assert answer.returncode == 1
    assert "on Linux only for now, and this is Darwin" in answer.stderr
    assert "cargo" not in answer.stderr
    assert machine(uname="echo Linux", cargo="exit 0").returncode == 0


def test_only_the_tests_need_rustfmt_and_clippy(machine):
    cargo = 'case "$1" in fmt | clippy) exit 1 ;; esac'
    assert machine("demo", cargo=cargo).returncode == 0
    answer = machine("test", cargo=cargo)
    assert answer.returncode == 1
    assert "rustup component add rustfmt" in answer.stderr
    assert "rustup component add clippy" in answer.stderr


def test_the_named_python_is_the_one_examined(machine):
    answer = machine(python_name="python3.99")
    assert "Python ('python3.99') is not on the PATH" in answer.stderr


def test_the_minimum_of_the_doctor_is_that_of_the_packages():
    manifest = (ROOT / "Cargo.toml").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    doctor = DOCTOR.read_text()
    assert 'rust-version = "1.88"' in manifest
    assert "rust_needed=1.88\n" in doctor
    assert 'requires-python = ">=3.10"' in project
    assert "-lt 3010" in doctor


def stage(name, program, needs=()):
    return stages.Stage(name, "a test", lambda: [[sys.executable, "-c", program]], needs=tuple(needs))


def test_stages_go_on_after_a_failure_except_those_that_need_it(capfd):
    outcomes = stages.run_stages(
        [
            stage("broken", "raise SystemExit(3)"),
            stage("dependent", "print('never')", needs=["broken"]),
            stage("independent", "print('test result: ok. 7 passed')"),
        ],
        os.environ,
    )
    assert [outcome.status for outcome in outcomes] == ["FAILED", "not run", "passed"]
    text = stages.summary("make test", outcomes)
    assert "exit status 3" in text
    assert "needs broken" in text
    assert "test result: ok. 7 passed" in text.splitlines()
    assert text.splitlines()[-1].startswith("make test: FAILED")
    assert text.splitlines()[-1].endswith("2 of 3: broken, dependent")
    assert "never" not in capfd.readouterr().out


def test_a_stage_runs_all_its_commands_and_names_the_first_that_failed(capfd):
    commands = [[sys.executable, "-c", program] for program in ("raise SystemExit(3)", "print('still')", "1 / 0")]
    outcome = stages.run_stage(stages.Stage("several", "a test", lambda: commands), os.environ)
    assert outcome.status == "FAILED"
    assert outcome.detail.startswith("exit status 3: ")
    assert "still\n" in capfd.readouterr().out


def test_a_stage_that_is_killed_or_cannot_start_fails():
    killed = stages.run_stage(stage("killed", "import os; os.kill(os.getpid(), 11)"), os.environ)
    assert (killed.status, killed.detail.split(":")[0]) == ("FAILED", "ended by SIGSEGV")
    absent = stages.run_stage(stages.Stage("absent", "a test", lambda: [["no-such-program"]]), os.environ)
    assert absent.status == "FAILED"
    assert "no-such-program" in absent.detail


@pytest.mark.parametrize(
    "line",
    [
        "============ 12 passed, 1 skipped in 3.45s ============",
        "======== 1 failed, 2 passed, 1 warning in 100.00s (0:01:40) ========",
        "test result: ok. 24 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        "     Summary [   0.113s] 24 tests run: 24 passed, 0 skipped",
        "tidy: 81 files hold to the rules",
        "Success: no issues found in 12 source files",
    ],
)
def test_result_lines_are_kept(line):
    assert stages.RESULT_LINE.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "FAILED tests/test_a.py::test_b - assert 1 == 2",
        "=========== FAILURES ===========",
        "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
    ],
)
def test_other_lines_are_not(line):
    assert not stages.RESULT_LINE.search(line)


def test_choosing_a_stage_chooses_what_it_needs():
    every = check.all_stages(environment.Environment(Path(".venv")))
    chosen = [stage.name for stage in check.choose(every, ["stubs"])]
    assert chosen == ["environment", "package", "stubs"]
    with pytest.raises(SystemExit, match="no stage is called nonsense"):
        check.choose(every, ["nonsense"])


def test_every_need_names_an_earlier_stage():
    seen = set()
    for stage in check.all_stages(environment.Environment(Path(".venv"))):
        assert set(stage.needs) <= seen, stage.name
        seen.add(stage.name)


def test_an_environment_made_by_somebody_else_is_left_alone(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()
    with pytest.raises(environment.EnvironmentFailure, match="was not made by this Makefile"):
        environment.Environment(theirs).prepare("build")
    assert (theirs / "precious").exists()


def test_requirements_that_are_included_count():
    assert environment.requirements_digest("test") != environment.requirements_digest("test-python")
    text = (ROOT / "requirements" / "test.txt").read_text()
    assert "-r test-python.txt" in text


def test_a_digest_sees_where_one_part_ends():
    assert environment.digest_of([b"ab", b"c"]) != environment.digest_of([b"a", b"bc"])
