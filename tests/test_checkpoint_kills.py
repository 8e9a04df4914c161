"""Runs with a checkpoint that are killed at any moment: what was stored is there, and the next run goes on from it."""

from __future__ import annotations

import os
import pickle
import signal

import numpy as np
import pytest
from scripts import check, run, start, until

import manyhands as mh

FRAMES_AT = 8192
SCHEDULERS = ["synchronous", "threads", "processes", "fork"]

#: How many runs are killed, on all schedulers together.
N_KILLS = int(os.environ.get("N_PARENT_KILLS", "104"))
N_TASKS = 100

STUDY = """
    import os, pickle, sys, time
    import manyhands as mh

    def simulate(n, rng):
        time.sleep(0.002 * (n % 4))
        if n % 10 == 0:
            return rng.normal(size=20_000)
        return n, float(rng.normal())

    if __name__ == "__main__":
        scheduler, n_tasks, path, into = sys.argv[1:]
        where = {} if path == "none" else {"checkpoint": path}
        results = mh.map(simulate, range(int(n_tasks)), seed=11, scheduler=scheduler, num_workers=2, **where)
        with open(into, "wb") as file:
            pickle.dump(results, file)
    """


def finished(path):
    """How many results there are in a file that a run was killed over."""
    return len(mh.checkpoint.open(path)) if path.exists() and path.stat().st_size > FRAMES_AT else 0


def is_same(result, true):
    """Whether two results are the same, bit for bit."""
    if isinstance(true, np.ndarray):
        return isinstance(result, np.ndarray) and result.dtype == true.dtype and result.tobytes() == true.tobytes()
    return repr(result) == repr(true)


def all_same(results, true):
    return len(results) == len(true) and all(map(is_same, results, true))


def results_in(path):
    with open(path, "rb") as file:
        return pickle.load(file)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of the study when nobody disturbs it, and nothing is stored."""
    folder = tmp_path_factory.mktemp("undisturbed")
    check(run(folder, STUDY, "synchronous", N_TASKS, "none", "results", cwd=folder))
    results = results_in(folder / "results")
    assert len(results) == N_TASKS
    return results


def check_stored(path, true):
    """What a killed run has left is true and whole; gives how much it is."""
    if not path.exists() or path.stat().st_size <= FRAMES_AT:
        return 0
    study = mh.checkpoint.open(path)
    assert study.damage == []
    assert study.check() == []
    places = [task.index for task in study]
    assert len(set(places)) == len(places), "each is computed once"
    for task in study:
        assert is_same(task.result(), true[task.index]), task.index
    return len(places)


class KilledStudy:
    """A study that is run again and again over one file, most of the time not to its end."""

    def __init__(self, folder, scheduler, true):
        self.folder, self.scheduler, self.true = folder, scheduler, true
        self.path, self.into = folder / "study.mh", folder / "results"
        self.n_stored = self.n_killed = self.n_completed = 0

    def arguments(self):
        return (self.folder, STUDY, self.scheduler, N_TASKS, "study.mh", "results")

    def kill_one(self):
        """Run until there is a little more than before, and kill it; says whether it did not end before that."""
        with start(*self.arguments(), cwd=self.folder) as program:
            # A little further each time, at no particular instant; now and then as soon as there is a file.
            n_more = 0 if self.n_killed % 6 == 5 else 1 + 7 * self.n_killed % 23
            aim = min(self.n_stored + n_more, N_TASKS - 5)
            until(
                lambda: program.process.poll() is not None or (self.path.exists() and finished(self.path) >= aim),
                "it goes on",
            )
            program.process.kill()
            code = program.process.wait()
        assert code in (0, -signal.SIGKILL), program.stdout
        n_before, self.n_stored = self.n_stored, check_stored(self.path, self.true)
        assert self.n_stored >= n_before, "what was stored is there"
        self.n_killed += code == -signal.SIGKILL
        return code == -signal.SIGKILL

    def complete(self):
        """Run it to its end: what was stored was not computed again, and the results are the undisturbed ones."""
        self.into.unlink(missing_ok=True)
        outcome = run(*self.arguments(), cwd=self.folder)
        assert outcome.returncode == 0, outcome
        assert all_same(results_in(self.into), self.true)
        stored = "all" if self.n_stored == N_TASKS else f"{self.n_stored} of"
        assert self.n_stored == 0 or f"{stored} {N_TASKS} results were there" in outcome.stderr, outcome
        assert check_stored(self.path, self.true) == N_TASKS
        self.path.unlink()
        self.n_stored = 0
        self.n_completed += 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_killed_runs_go_on_and_end_with_the_same_results(tmp_path, undisturbed, scheduler):
    n_kills = -(-N_KILLS // len(SCHEDULERS))
    study = KilledStudy(tmp_path, scheduler, undisturbed)
    n_turns = 0
    # A run that has ended before it was killed counts for nothing, but is looked at like any other.
    while study.n_killed < n_kills:
        n_turns += 1
        assert n_turns <= 10 + 3 * n_kills, f"only {study.n_killed} of {n_turns} runs could be killed"
        was_killed = study.kill_one()
        if not was_killed:
            assert all_same(results_in(study.into), undisturbed)
        if not was_killed or study.n_stored >= N_TASKS - 5:
            study.complete()
    study.complete()
    assert study.n_killed == n_kills


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"])
def test_ctrl_c_keeps_what_was_stored(tmp_path, scheduler):
    source = """
        import sys, time
        import manyhands as mh
        def wait(x):
            time.sleep(1000 if x > 4 else 0)
            return x
        try:
            mh.map(wait, range(20), checkpoint="study.mh", scheduler=sys.argv[1], num_workers=1)
        except KeyboardInterrupt:
            study = mh.checkpoint.open("study.mh")
            print([task.result() for task in study if task.error is None], study.is_running)
        """
    path = tmp_path / "study.mh"
    with start(tmp_path, source, scheduler, cwd=tmp_path) as program:
        until(lambda: finished(path) >= 5, "some are stored")
        os.kill(program.pid, signal.SIGINT)
        check(program.wait(), "[0, 1, 2, 3, 4] False\n")


def test_killed_workers_cost_nothing_that_was_stored(tmp_path, undisturbed):
    path = tmp_path / "study.mh"
    with start(tmp_path, STUDY, "processes", N_TASKS, "study.mh", "results", cwd=tmp_path) as program:
        n_more = 5
        for _ in range(3):
            until(lambda: program.process.poll() is not None or finished(path) >= n_more, "it goes on")
            # Time for the task that is hit to be done elsewhere: hit twice, it would be blamed.
            n_more = finished(path) + 25
            for worker in program.workers()[:1]:
                os.kill(worker, signal.SIGKILL)
        outcome = program.wait()
        assert outcome.returncode == 0, outcome
    assert all_same(results_in(tmp_path / "results"), undisturbed)
    assert check_stored(path, undisturbed) == N_TASKS
