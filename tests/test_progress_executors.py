"""Calls of an `Executor`, and of what is built on it, are shown in a block as others are."""

from __future__ import annotations

import itertools
import threading

import pytest
from scripts import check, run, until
from terminal import Terminal

import manyhands as mh

SCHEDULERS = ["synchronous", "threads", "processes", "fork"]


class Seen:
    """How calls have ended, as it was shown: name, total, how many are done, and status."""

    def __init__(self):
        self.ends = []
        self.bar = mh.ProgressBar(self._see)

    def _see(self, progress):
        if progress.status != "running":
            self.ends.append((progress.name, progress.total, progress.done, progress.status))


def double(x):
    return 2 * x


def invert(x):
    return 1 / x


@pytest.mark.parametrize("buffersize", [None, 3])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_map_is_shown_with_its_number_of_calls(scheduler, buffersize):
    seen = Seen()
    with seen.bar, mh.Executor(2, scheduler=scheduler) as executor:
        assert list(executor.map(double, range(9), buffersize=buffersize)) == [2 * i for i in range(9)]
    found = seen.ends
    if scheduler == "fork":
        # Calls of their own; those that are under way together are one.
        assert {(name, status) for name, *_, status in found} == {("submit", "done")}
        assert sum(done for _, _, done, _ in found) == 9
    else:
        assert found == [("double", 9, 9, "done")]


@pytest.mark.parametrize("scheduler", ["threads", "processes", "fork"])
def test_submitted_calls_are_shown_together(scheduler):
    seen = Seen()
    with seen.bar, mh.Executor(2, scheduler=scheduler) as executor:
        futures = [executor.submit(double, i) for i in range(9)]
        assert [future.result() for future in futures] == [2 * i for i in range(9)]
    assert {(name, status) for name, *_, status in seen.ends} == {("submit", "done")}
    assert sum(done for _, _, done, _ in seen.ends) == 9


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_map_that_nobody_takes_results_of_is_shown_to_its_end(scheduler):
    seen = Seen()
    with seen.bar, mh.Executor(2, scheduler=scheduler) as executor:
        executor.map(double, range(9))
        until(lambda: seen.ends, "its end is shown")
    assert seen.ends == [("double", 9, 9, "done")]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_how_a_map_ends_is_told(scheduler):
    endings = []
    for act in [lambda results: list(results), lambda results: (next(results), results.close())]:
        seen = Seen()
        with seen.bar, mh.Executor(1, scheduler=scheduler) as executor:
            results = executor.map(invert, itertools.chain([1, 0], itertools.repeat(1)), buffersize=2)
            try:
                act(results)
            except ZeroDivisionError:
                pass
        ((_, total, _, status),) = seen.ends
        assert total is None
        endings.append(status)
    assert endings == ["failed", "closed"]


def test_calls_of_joblib_are_shown():
    joblib = pytest.importorskip("joblib")
    import manyhands.joblib

    manyhands.joblib.register()
    seen = Seen()
    with seen.bar, joblib.parallel_config(backend="manyhands", n_jobs=2):
        joblib.Parallel(batch_size=1)(joblib.delayed(double)(i) for i in range(9))
    found = seen.ends
    assert {name for name, *_ in found} == {"submit"}
    assert sum(done for _, _, done, _ in found) == 9


def test_calls_of_tasks_are_not_shown():
    def inner(x):
        with mh.Executor(2) as executor:
            return list(executor.map(double, [x]))

    seen = Seen()
    with seen.bar:
        assert mh.map(inner, range(3), scheduler="threads", num_workers=2) == [[0], [2], [4]]
    assert [name for name, *_ in seen.ends] == ["inner"]


def test_outside_of_a_block_nothing_of_it_is_imported(tmp_path):
    source = """
    import sys
    import manyhands as mh

    with mh.Executor(1, scheduler="threads") as executor:
        assert list(executor.map(abs, [-1])) == [executor.submit(abs, -1).result()]
    assert "manyhands._progress" not in sys.modules
    """
    check(run(tmp_path, source), "")


def test_a_bar_of_an_executors_map_stands_in_the_terminal(tmp_path):
    source = """
    import os, sys, time
    import manyhands as mh

    def wait(x):
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        print("line", x)

    with mh.ProgressBar(), mh.Executor(2, scheduler="processes") as executor:
        list(executor.map(wait, range(20)))
    """
    seen = tmp_path / "seen"
    with Terminal(tmp_path, source, str(seen)) as terminal:
        terminal.wait_for("wait   0%")
        seen.touch()
        assert terminal.wait() == 0, terminal.text
        lines = terminal.lines()
    assert sorted(line for line in lines if line.startswith("line")) == sorted(f"line {x}" for x in range(20))
    assert [line.split()[1] for line in lines if line.startswith("wait")] == ["100%"]


def test_threads_of_the_program_use_executors_in_a_block():
    seen = Seen()

    def use():
        with mh.Executor(1, scheduler="threads") as executor:
            list(executor.map(double, range(5)))

    with seen.bar:
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen.ends == [("double", 5, 5, "done")] * 4
