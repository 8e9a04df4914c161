"""The benchmarks run, at a size that says nothing about speed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import is_alive, start, until

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benches import progress  # noqa: E402
from benches.peers import contests  # noqa: E402

PATIENCE_S = 900


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program that ends what it has started when it is asked to end."""
    words = [sys.executable, *command]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
        finally:
            process.terminate()
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


@pytest.mark.timeout(PATIENCE_S + 30)
def test_every_case_of_ours_runs_and_gives_a_row():
    ended = run("-m", "benches.ours", "--quick")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for group in ("graph", "map", "latency", "start", "shared", "results", "metg", "makespan", "shapes"):
        assert f"\n{group}: " in ended.stdout
    assert "could not be measured" not in ended.stdout


@pytest.mark.timeout(PATIENCE_S + 30)
def test_draws_on_threads_are_measured():
    ended = run("-m", "benches.draws", "--quick")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "a generator for each task: " in ended.stdout
    assert "the global generator: " in ended.stdout


@pytest.mark.timeout(PATIENCE_S + 30)
def test_what_a_progress_bar_costs_is_measured():
    ended = run("-m", "benches.progress", "--quick")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in ended.stdout.splitlines() if line[:1] == "|"
    ]
    assert tuple(rows[0]) == progress.HEADER
    cases = [(scheduler, tasks) for scheduler, tasks, *_ in rows[2:]]
    tasks = ("1000 no-ops", "10000 no-ops", "20 tasks of 1 ms")
    assert cases == [(scheduler, each) for scheduler in ("processes", "threads", "synchronous") for each in tasks]
    for *_, ratio, reach, reached in rows[2:]:
        assert reach == f"≤ {progress.RATIO_MAX}"
        assert reached == ("yes" if float(ratio) <= progress.RATIO_MAX else "NO")


def test_what_a_progress_bar_costs_is_that_of_calls_that_show_one(monkeypatch):
    """With and without by turns, and the ratio is that of neighbours."""
    calls, plain_s, drawn_s = [], iter([2.0, 4.0, 8.0]), iter([3.0, 6.0, 16.0])

    def seconds(call):
        call()
        return next(drawn_s if calls[-1] else plain_s)

    monkeypatch.setattr(progress, "seconds", seconds)
    plain, drawn, ratio = progress.compare(calls.append, "a bar", 3)
    assert calls == [False, "a bar", "a bar", False, False, "a bar", "a bar", False]
    assert (plain, drawn, ratio) == (4.0, 6.0, 1.5)
    assert progress.row("threads", "", 1.0, 1.01, 1.01)[-1] == "yes"
    assert progress.row("threads", "", 1.0, 1.02, 1.02)[-1] == "NO"


@pytest.mark.timeout(PATIENCE_S + 30)
def test_what_random_numbers_cost_is_measured():
    ended = run("-m", "benches.random_costs", "--quick")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("more than not watched") == 16


@pytest.mark.timeout(PATIENCE_S + 30)
def test_what_streams_cost_is_measured():
    ended = run("-m", "benches.streams", "--quick")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("µs each") == 9


# One case of each kind; what is not installed here, distributed and Ray, gives a row that says so.
PEERS = {
    ("scikit-learn", "forest, small trees"): ("joblib, loky", "joblib, threading"),
    ("dask", "flights"): ("Dask threads", "Dask processes", "Dask synchronous"),
    ("executors", "processes"): ("concurrent.futures processes",),
    ("clients", "processes"): (),
    ("nested", "concurrent.futures processes, threads"): ("concurrent.futures processes, threads",),
    ("draws", "a generator for each task"): ("manyhands threads, a generator for each task",),
    ("checkpoints", "joblib"): ("joblib.Memory",),
    ("engines", "submit"): ("concurrent.futures threads",),
}


@pytest.mark.timeout(PATIENCE_S + 30)
@pytest.mark.parametrize(("group", "case"), PEERS)
def test_each_group_of_cases_beside_the_peers_gives_rows(group, case):
    ended = run("-m", "benches.peers", "--quick", "--group", group, "--case", case)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line.strip("|").split("|") for line in ended.stdout.splitlines() if line.startswith("|")][2:]
    engines = {cell.strip() for row in rows for cell in row}
    assert set(PEERS[group, case]) <= engines, ended.stdout
    assert len({len(row) for row in rows}) == 1
    if PEERS[group, case]:
        failures = [line for line in ended.stdout.splitlines() if "Error: " in line or "stopped after" in line]
        assert all("is not installed" in line for line in failures), ended.stdout


def test_ways_to_the_same_result_take_turns_and_what_fails_costs_its_row_only():
    calls = []

    def way(name, result):
        def call():
            calls.append(name)
            return result() if callable(result) else result

        return contests.Way(name, "", call, reach=None if name == "ours" else 1e-9)

    ways = [way("ours", 1), way("theirs", 1), way("wrong", 2), way("broken", lambda: 1 // 0)]
    rows = [record["row"] for record in contests.hold(contests.Contest("case", "size", ways, check_one, n_runs=3))]
    assert [row[2] for row in rows] == ["ours", "theirs", "wrong", "broken"]
    assert {len(row) for row in rows} == {len(contests.HEADER)}
    assert [row[-1] for row in rows] == ["", "yes", "", ""]
    assert rows[2][4] == "ValueError: it is 2"
    assert rows[3][4].startswith("ZeroDivisionError")
    assert calls[:4] == ["ours", "theirs", "wrong", "broken"]
    assert calls[4:] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def check_one(result):
    if result != 1:
        raise ValueError(f"it is {result}")


CASES = """
import os, sys, time
from benches.supervise import Reporter

CASES = {
    "good": lambda: [{"figure": 1}],
    "wrong": lambda: [{"figure": 2}, {"figure": 1 // 0}],
    "dead": lambda: os._exit(3),
    "endless": lambda: time.sleep(1000),
    "last": lambda: [{"figure": 4}],
}
reporter = Reporter()
for name in sys.argv[1:]:
    print("a line that is not ours")
    reporter.run(name, CASES[name])
"""


def test_who_ends_a_benchmark_ends_what_it_has_started(tmp_path):
    source = f"""
        import os, sys, time
        sys.path.insert(0, {str(ROOT)!r})
        os.environ["PYTHONPATH"] = {str(ROOT)!r}
        from benches.supervise import supervise
        case = (
            "import os, subprocess, time\\n"
            "program = subprocess.Popen(['sleep', '3600'])\\n"
            "open('pids-', 'w').write(f'{{os.getpid()}} {{program.pid}}')\\n"
            "os.rename('pids-', 'pids')\\n"
            "time.sleep(3600)\\n"
        )
        command = [sys.executable, "-c", case]
        list(supervise(command, ["endless"], lambda name: 3600.0, time.monotonic() + 3600))
    """
    with start(tmp_path, source, cwd=tmp_path) as program:
        path = tmp_path / "pids"
        until(path.exists, "the case has begun")
        pids = [int(word) for word in path.read_text().split()]
        program.process.terminate()
        until(lambda: not any(map(is_alive, pids)), "nothing of it is left")
        assert program.wait().returncode == 128 + signal.SIGTERM


def test_a_case_that_fails_dies_or_hangs_costs_its_row_only(tmp_path):
    program = tmp_path / "cases.py"
    program.write_text(CASES)
    watch = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import os
os.environ["PYTHONPATH"] = {str(ROOT)!r}
from benches.supervise import supervise
names = ["good", "wrong", "dead", "endless", "last"]
command = [sys.executable, {str(program)!r}]
limits = {{"endless": 2.0}}
for name, found in supervise(command, names, lambda name: limits.get(name, 60.0), time.monotonic() + 200):
    print(name, found.get("figure") or found["failed"])
"""
    ended = run("-c", watch)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "good 1"
    assert lines[1].startswith("wrong ZeroDivisionError")
    assert lines[2].startswith("dead the process ended with status 3")
    assert lines[3].startswith("endless stopped after")
    assert lines[4] == "last 4"
