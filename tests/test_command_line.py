"""The command `manyhands`, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import PATIENCE_S

import manyhands as mh
from manyhands import _doctor, _settings, config

SECTIONS = [
    "Interpreter",
    "CPUs",
    "Memory",
    "Shared memory",
    "Libraries with threads of their own",
    "GPUs",
    "Installed beside manyhands",
    "Configuration",
]


@pytest.fixture
def command(tmp_path):
    """Return a function that runs `python -m manyhands` in a folder of its own."""

    def run(*words, python=(), **environment):
        return subprocess.run(
            [sys.executable, *python, "-m", "manyhands", *words],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_S,
        )

    return run


def test_the_installed_command_is_the_same_as_the_module(command):
    script = Path(sys.executable).with_name("manyhands")
    ran = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == command("--version").stdout == f"manyhands {mh.__version__}\n"


def test_without_a_command_there_is_help(command):
    ran = command()
    assert ran.returncode == 2
    for name in ("doctor", "run", "bench"):
        assert f"    {name}" in ran.stdout
        assert command(name, "--help").returncode == 0


def test_a_command_that_there_is_not_is_named(command):
    ran = command("docter")
    assert ran.returncode == 2
    assert "docter" in ran.stderr


# manyhands run

STUDY = """
import os
import sys

import manyhands as mh

factor = 3


class Point:
    def __init__(self, x):
        self.x = x


def scaled(point):
    return Point(point.x * factor)


results = mh.map(scaled, [Point(i) for i in range(4)])
print(__name__, sys.argv, os.path.basename(sys.path[0]), [point.x for point in results], all(
    type(point) is Point for point in results))
print(mh.config.get("scheduler"), mh.config.get("num_workers"), mh.config.get("seed"))
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.py").write_text(STUDY)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(STUDY)


PROGRAMS = [["study.py"], ["-m", "study"], ["-m", "package"], ["-c", STUDY], ["package"]]


@pytest.mark.parametrize(
    ("program", "scheduler"),
    # What differs between programs is how their functions reach other processes.
    [*((program, "processes") for program in PROGRAMS), (PROGRAMS[0], "fork"), (PROGRAMS[0], "threads")],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:10].strip(),
)
def test_a_program_is_what_it_is_for_python(command, study, tmp_path, program, scheduler):
    words = ["--alpha", "3", "-x", "--seed=1"]
    ours = command("run", "--num-workers=2", *program, *words, "--scheduler", scheduler)
    settings = {"MANYHANDS_SCHEDULER": scheduler, "MANYHANDS_NUM_WORKERS": "2"}
    pythons = subprocess.run(
        [sys.executable, *program, *words],
        cwd=tmp_path,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
    )
    assert (ours.stdout, ours.returncode) == (pythons.stdout, 0), ours.stderr
    assert "[0, 3, 6, 9] True" in ours.stdout
    assert f"{scheduler} 2 None" in ours.stdout


def test_options_stand_before_the_program_and_two_of_them_behind(command, study):
    for words in (
        ["--scheduler", "sync", "--seed", "5", "study.py", "--num-workers", "3", "a"],
        ["--scheduler=sync", "--seed=5", "study.py", "a", "--num-workers=3"],
        ["--seed", "5", "study.py", "--scheduler", "sync", "--num-workers=3", "a"],
    ):
        ran = command("run", *words)
        assert "__main__ ['study.py', 'a']" in ran.stdout, ran.stderr
        assert "synchronous 3 5" in ran.stdout


def test_behind_two_dashes_everything_is_the_programs(command, study):
    ran = command("run", "--scheduler", "sync", "study.py", "--", "--scheduler", "x", "--", "-m")
    assert "__main__ ['study.py', '--scheduler', 'x', '--', '-m']" in ran.stdout, ran.stderr
    assert command("run", "--scheduler", "sync", "--", "study.py", "--num-workers", "0").stdout.startswith(
        "__main__ ['study.py', '--num-workers', '0']"
    )


def test_every_setting_is_an_option(command):
    shown = command("run", "--help").stdout
    for key in config.to_dict():
        assert f"--{key.replace('_', '-')} VALUE" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scheduler", "thread", "x.py"], "--scheduler='thread' is not a scheduler; did you mean 'threads'?"),
        (["x.py", "--num-workers", "0"], "--num-workers=0 is not accepted. Accepted: an integer from 1"),
        (["--memory-limit", "much", "x.py"], "--memory-limit='much' is not accepted"),
        (["--workers", "2", "x.py"], "--workers is not an option of manyhands; did you mean --num-workers?"),
        (["--num-workers"], "expected one argument"),
        (["missing.py"], "there is no file 'missing.py' here"),
        (["-m"], "-m needs the name of a module after it"),
        (["-c"], "-c needs a line of code after it"),
        ([], "there is no program to run"),
    ],
)
def test_what_is_not_accepted_is_said_before_anything_runs(command, tmp_path, words, said):
    (tmp_path / "x.py").write_text("print('it ran')")
    ran = command("run", *words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr


def test_the_program_has_the_last_word_unless_forced(command, tmp_path):
    (tmp_path / "own.py").write_text(
        "import manyhands as mh\nmh.config.set(scheduler='threads')\nprint(mh.config.get('scheduler'))"
    )
    assert command("run", "own.py", "--scheduler", "sync").stdout == "threads\n"
    assert command("run", "--force", "own.py", "--scheduler", "sync").stdout == "synchronous\n"


def test_the_programs_end_is_the_commands_end(command, tmp_path):
    (tmp_path / "end.py").write_text("import os, sys\nprint(os.getppid())\nsys.exit(3)")
    ran = command("run", "end.py")
    assert (ran.returncode, ran.stdout) == (3, f"{os.getpid()}\n")  # there is no process in between
    assert command("run", "-c", "import signal, os; os.kill(os.getpid(), signal.SIGTERM)").returncode == -15


def test_options_of_the_interpreter_are_the_programs(command):
    program = "import sys; print(sys.flags.optimize, sys.flags.dont_write_bytecode, sys._xoptions)"
    assert command("run", "-c", program, python=["-OO", "-B", "-X", "dev"]).stdout == "2 1 {'dev': True}\n"


# manyhands doctor


def test_the_doctor_finds_every_scheduler_working(command):
    ran = command("doctor")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for title in [*SECTIONS, "Self-test"]:
        assert f"\n{title}\n" in f"\n{ran.stdout}"
    tested = ran.stdout.partition("Self-test\n")[2].splitlines()
    for scheduler, line in zip(_doctor.SCHEDULERS, tested):
        assert line.split()[:2] == [scheduler, "works;"]
    assert ran.stdout.endswith("\nEverything works.\n")


def test_the_doctor_can_answer_programs(command):
    ran = command("doctor", "--json", "--no-self-test", MANYHANDS_SCHEDULER="threads")
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["problems"]) == (0, [])
    assert list(found["report"]) == SECTIONS
    assert found["report"]["Configuration"]["scheduler"] == "'threads' (environment MANYHANDS_SCHEDULER)"
    assert found["report"]["CPUs"]["manyhands.cpu_count()"].startswith(f"{mh.cpu_count()}, ")


def test_the_doctor_says_who_limits_the_cpus(command):
    ran = command("doctor", "--no-self-test", OMP_NUM_THREADS="1", OMP_THREAD_LIMIT="100000")
    assert "1, the smallest: in the environment (OMP_NUM_THREADS)" in ran.stdout or os.cpu_count() == 1
    if mh.cpu_count() > 1:
        assert "OMP_NUM_THREADS=1 makes 1 the default number of workers" in ran.stdout
    assert "in the environment (OMP_THREAD_LIMIT)" in ran.stdout
    assert ran.stdout.endswith("\nNothing was tried.\n")


def test_the_doctor_counts_the_cpus_that_a_process_is_bound_to(tmp_path):
    one = min(os.sched_getaffinity(0))
    ran = subprocess.run(
        [sys.executable, "-m", "manyhands", "doctor", "--json", "--no-self-test"],
        cwd=tmp_path,
        preexec_fn=lambda: os.sched_setaffinity(0, [one]),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout)
    assert found["report"]["CPUs"]["bound to this process (affinity)"] == "1"


@pytest.mark.parametrize(
    ("script", "row"),
    [
        (
            "echo '0, NVIDIA H100 80GB HBM3, 81559 MiB, 580.95'",
            ("NVIDIA 0", "NVIDIA H100 80GB HBM3, 81559 MiB, 580.95"),
        ),
        ("echo 'no driver is running'; exit 9", ("nvidia-smi", "fails: no driver is running")),
        ("exec sleep 600", ("nvidia-smi", "fails: ")),
    ],
)
def test_the_doctor_asks_for_gpus(monkeypatch, tmp_path, script, row):
    asked = tmp_path / "nvidia-smi"
    asked.write_text(f"#!/bin/sh\n{script}\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(_doctor, "GPU_TIMEOUT_S", 1 if "sleep" in script else PATIENCE_S)
    visible, (name, value) = _doctor.gpus(_doctor.Report()).rows[:2]
    assert visible == ("CUDA_VISIBLE_DEVICES", "0")
    assert name == row[0]
    assert value.startswith(row[1])


def test_the_doctor_names_a_setting_that_is_not_accepted(command):
    ran = command("doctor", MANYHANDS_NUM_WORKERS="many")
    assert ran.returncode == 1
    assert "MANYHANDS_NUM_WORKERS='many' is not accepted" in ran.stdout
    assert "The schedulers were not tried" in ran.stdout
    assert ran.stdout.endswith("\nSomething does not work.\n")


def test_the_doctor_finds_the_scheduler_that_does_not_work(command, tmp_path):
    customs = tmp_path / "customs"
    customs.mkdir()
    (customs / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if any('manyhands._worker' in word for word in sys.orig_argv):\n"
        "    print('workers are not welcome', file=sys.stderr, flush=True)\n"
        "    os._exit(7)\n"
    )
    ran = command("doctor", PYTHONPATH=str(customs))
    assert ran.returncode == 1, ran.stdout
    assert "scheduler 'processes' does not work: simple calls: " in ran.stdout
    assert "workers are not welcome" in ran.stdout
    for scheduler in ("threads", "fork", "synchronous"):
        assert f"scheduler {scheduler!r} does not work" not in ran.stdout


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import time; time.sleep(600)", "it came to no end within 1 seconds"),
        (
            "import os; os.write(2, b'the end is near'); os.abort()",
            "the test ended with status -6\n      | the end is near",
        ),
    ],
)
def test_a_scheduler_that_hangs_or_crashes_does_not_take_the_doctor_along(monkeypatch, program, said):
    monkeypatch.setattr(_doctor, "_TRY", program)
    timeout_s = 1 if "sleep" in program else PATIENCE_S
    assert _doctor.try_scheduler("threads", timeout_s) == {"failures": [said]}


def test_all_schedulers_together_have_so_many_seconds_and_what_hangs_in_one_is_named(monkeypatch):
    program = "import sys, time; print('graphs', flush=True); time.sleep(1000 * (sys.argv[1] != 'fork')); sys.exit(3)"
    monkeypatch.setattr(_doctor, "_TRY", program)
    monkeypatch.setattr(_doctor, "SELF_TEST_TIMEOUT_S", 20.0)
    report = _doctor.Report()
    _doctor.self_test(report, lambda text: None)
    told = [re.sub(r"\d+ s", "N s", problem) for problem in report.problems]
    assert told == [
        "scheduler 'synchronous' does not work: it came to no end within N seconds, amid: graphs",
        "scheduler 'threads' does not work: it came to no end within N seconds, amid: graphs",
        "scheduler 'processes' does not work: it came to no end within N seconds, amid: graphs",
        "scheduler 'fork' does not work: the test ended with status 3, amid: graphs",
    ]


# manyhands bench


def test_the_bench_prints_one_table(command):
    ran = command("bench", MANYHANDS_NUM_WORKERS="2")
    assert ran.returncode == 0, ran.stderr
    head, blank, columns, _line, *rows = ran.stdout.splitlines()
    assert "2 workers" in head
    assert blank == ""
    for name in ("a plain loop", "futures: processes", "futures: threads", "threads", "processes", "fork"):
        assert name in columns
    assert len(rows) == 5
    assert all(len(row) == len(columns) for row in rows)


def test_every_setting_is_explained():
    from manyhands import _run_program

    assert sorted(_run_program._HELP) == sorted(_settings.DEFAULTS)
