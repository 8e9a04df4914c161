"""Plans: calls that tasks make use the next level's scheduler, and nothing of it is left or lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scripts

import manyhands as mh
from manyhands import config

PLANS = [
    ("processes", "threads"),
    ("processes", "processes"),
    ("processes", "fork"),
    ("threads", "threads"),
    ("threads", "processes"),
    ("fork", "threads"),
    ("fork", "processes"),
    ("synchronous", "threads"),
    ("synchronous", "processes"),
    ("threads", "synchronous"),
]


@pytest.fixture(autouse=True)
def end_workers():
    yield
    mh.shutdown()


def place(*_args):
    return os.getpid(), threading.get_ident()


def meet(folder, n_wanted, name, *_args):
    """Come back once so many have come here, which they can only do side by side."""
    path = Path(folder) / f"{name}-{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
    path.touch()
    scripts.until(lambda: len(os.listdir(folder)) >= n_wanted, f"{n_wanted} run side by side")
    # What a task here calls runs in its own thread again, below the plan.
    assert set(mh.map(place, range(3))) == {place()}
    return place()


@pytest.fixture
def here(monkeypatch):
    """Workers find the modules of the tests."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.parametrize("plan", PLANS, ids="-".join)
def test_calls_of_tasks_take_the_next_level(plan, tmp_path, here):
    n_outer = 1 if plan[0] == "synchronous" else 2
    n_inner = 1 if plan[1] == "synchronous" else 2
    folder = str(tmp_path)

    def outer(number):
        # Tasks of "synchronous" come one after the other: there the inner ones of each meet alone.
        return place(), mh.map(meet, [folder] * n_inner, [n_outer * n_inner] * n_inner, [number] * n_inner)

    found = mh.map(outer, range(n_outer), scheduler=plan, num_workers=[2, 2], chunksize=1)
    there = {own for own, _ in found}
    inside = [one for _, inner in found for one in inner]
    assert len(there) == n_outer
    assert len(set(inside)) == n_outer * n_inner
    if plan[1] in ("processes", "fork"):
        assert not {pid for pid, _ in inside} & {pid for pid, _ in there}
    elif plan[1] == "threads":
        assert {pid for pid, _ in inside} == {pid for pid, _ in there}
        assert not set(inside) & there
    else:
        assert set(inside) == there


FACES = {
    "map": lambda function, items: mh.map(function, items),
    "compute": lambda function, items: list(mh.compute([mh.delayed(function)(item) for item in items])[0]),
    "persist": lambda function, items: [
        lazy.compute() for lazy in mh.persist([mh.delayed(function)(item) for item in items])[0]
    ],
    "stream": lambda function, items: list(mh.stream(function, items)),
    "submit": lambda function, items: [future.result() for future in [mh.submit(function, item) for item in items]],
}


@pytest.mark.parametrize("plan", [("processes", "threads"), ("threads", "processes"), ("synchronous", "threads")])
@pytest.mark.parametrize("face", FACES)
def test_every_kind_of_call_follows_the_plan(face, plan):
    def outer(_):
        return place(), FACES[face](place, range(4))

    with config.set(scheduler=plan, num_workers=[1, 2]):
        for own, inner in FACES[face](outer, range(2)):
            assert own not in inner
            assert {pid for pid, _ in inner} == {own[0]} or plan[1] == "processes"


def test_three_levels():
    def middle(_):
        return place(), mh.map(place, range(2))

    def outer(_):
        return place(), mh.map(middle, range(2))

    plan = ["processes", "processes", "threads"]
    for own, inside in mh.map(outer, range(2), scheduler=plan, num_workers=[1, 1, 2]):
        for inner, innermost in inside:
            assert inner[0] != own[0]
            assert {pid for pid, _ in innermost} == {inner[0]}
            assert inner not in innermost


def levels_seen(_):
    """How many CPUs a task may use, and how many workers a level below has that has no number."""
    from manyhands import _native, _plans, _worker

    return _plans.unpack(_native.task_level() or _worker.level)


def test_cpus_are_shared_among_the_levels(monkeypatch):
    monkeypatch.setattr(config._state, "n_cpus", 12)
    config.refresh()
    monkeypatch.setattr(config._state, "n_cpus", 12)

    def outer(_):
        return levels_seen(0), mh.map(levels_seen, range(1))[0]

    def seen(**settings):
        ((own, inner),) = mh.map(outer, [0], **settings)
        return own, inner

    two = ["processes", "threads"]
    assert seen(scheduler=two, num_workers=[2, 3]) == (((("threads", 3),), 6, 1), ((), 2, 3))
    assert seen(scheduler=two, num_workers=3) == (((("threads", None),), 4, 1), ((), 1, 4))
    assert seen(scheduler=["threads", "processes"], num_workers=[2, 2]) == (((("processes", 2),), 6, 2), ((), 3, 1))
    assert seen(scheduler=["synchronous", "threads"], num_workers=[5, 2]) == (((("threads", 2),), 12, 1), ((), 6, 2))
    # Levels are never without a CPU.
    assert seen(scheduler=two, num_workers=[12, 4]) == (((("threads", 4),), 1, 1), ((), 1, 4))


def test_levels_are_packed_and_unpacked():
    from manyhands import _plans

    levels = (("fork", 10_000), ("synchronous", None), ("threads", 1), ("processes", 77), ("threads", None))
    for n in range(len(levels) + 1):
        for n_cpus, n_beside in [(1, 1), (16_383, 10_000), (5, 3)]:
            packed = _plans.pack(levels[:n], n_cpus, n_beside)
            assert 0 < packed < 2**128
            assert _plans.unpack(packed) == (levels[:n], n_cpus, n_beside)
            assert _plans.has_levels(packed) == (n > 0)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_scheduler_named_inside_of_a_task_has_the_tasks_share_of_the_cpus(scheduler, monkeypatch):
    config.refresh()
    monkeypatch.setattr(config._state, "n_cpus", 6)

    def outer(_):
        (seen,) = mh.map(levels_seen, [0], scheduler=["threads", "threads"])
        return seen, mh.map(levels_seen, [0], scheduler="threads", num_workers=2)[0]

    ((plain, numbered),) = mh.map(outer, [0], scheduler=scheduler, num_workers=2)
    n_outer = 2 if scheduler == "threads" else 1
    assert plain == ((("threads", None),), 1, 3 * n_outer)
    assert numbered == ((), 1, 2 * n_outer)


# Settings


def test_plans_in_the_settings(monkeypatch, tmp_path):
    with config.set(scheduler="processes, threads", num_workers=[2, None]):
        assert config.get("scheduler") == ("processes", "threads")
        assert config.get("num_workers") == (2, None)
        assert config.resolve()[:2] == ("processes", 2)
        # A keyword takes the place of all of it.
        assert config.resolve("threads", [3])[:2] == ("threads", 3)
    monkeypatch.setenv("MANYHANDS_SCHEDULER", "threads,sync")
    monkeypatch.setenv("MANYHANDS_NUM_WORKERS", "3,4")
    config.refresh()
    try:
        assert (config.get("scheduler"), config.get("num_workers")) == (("threads", "synchronous"), (3, 4))
        assert "num_workers = (3, 4) (environment MANYHANDS_NUM_WORKERS)" in config.describe()
        with config.set(scheduler="threads"):
            # Numbers beyond the plan say nothing.
            assert config.resolve()[:2] == ("threads", 3)
    finally:
        monkeypatch.undo()
        config.refresh()
    file = tmp_path / "settings.toml"
    file.write_text('scheduler = ["processes", "threads"]\nnum_workers = [2, 4]\n')
    monkeypatch.setenv("MANYHANDS_CONFIG", str(file))
    config.refresh()
    try:
        assert (config.get("scheduler"), config.get("num_workers")) == (("processes", "threads"), (2, 4))
    finally:
        monkeypatch.undo()
        config.refresh()


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"scheduler": ["processes", "thread"]}, "'thread' is not a scheduler; did you mean 'threads'"),
        ({"scheduler": []}, "from 1 to 6 levels"),
        ({"scheduler": ["sync"] * 7}, "from 1 to 6 levels"),
        ({"scheduler": ["sync", 3]}, "scheduler=3 is not a scheduler"),
        ({"num_workers": [2, 0]}, "num_workers=0 is not accepted"),
        ({"num_workers": [1] * 7}, "from 1 to 6 levels"),
        (
            {"scheduler": "threads", "num_workers": [2, 4]},
            r"num_workers=\[2, 4\] has 2 levels, and scheduler='threads'",
        ),
        ({"scheduler": ["threads"], "num_workers": [2, 4]}, "has 2 levels"),
    ],
)
def test_plans_that_are_none(settings, text):
    with pytest.raises(mh.ConfigError, match=text):
        config.set(**settings)
    with pytest.raises(mh.ConfigError, match=text):
        mh.map(abs, [1], **settings)
    with pytest.raises(mh.ConfigError, match=text):
        mh.map(lambda _: mh.map(abs, [1], **settings), [0], scheduler="threads", num_workers=1)


def test_a_plan_from_the_environment_and_the_last_word(tmp_path):
    program = """
        import os, threading
        import manyhands as mh
        def place(_):
            return os.getpid(), threading.get_ident()
        def outer(_):
            return place(0), mh.map(place, range(4), scheduler="synchronous")
        ((own, inner),) = mh.map(outer, [0], scheduler="fork")
        print(own in inner, {pid for pid, _ in inner} == {own[0]}, own[0] == os.getpid())
    """
    environment = {**os.environ, "MANYHANDS_SCHEDULER": "processes,threads", "MANYHANDS_NUM_WORKERS": "1,2"}
    scripts.check(scripts.run(tmp_path, program, env=environment), "True True False\n")
    environment["MANYHANDS_FORCE"] = "1"
    scripts.check(scripts.run(tmp_path, program, env=environment), "False True False\n")


# Results


def draw(x, rng):
    return float(rng.random()) + x


def nested_draws(n, rng):
    inner = mh.map(draw, range(n))
    lazy = mh.compute([mh.delayed(draw)(i) for i in range(2)])[0]
    return float(rng.random()), inner, list(lazy), mh.submit(draw, 1).result(), list(mh.stream(draw, range(2)))


def test_random_numbers_do_not_depend_on_the_plan():
    expected = mh.map(nested_draws, [2, 3], scheduler="synchronous", seed=5)
    for plan in PLANS:
        assert mh.map(nested_draws, [2, 3], scheduler=plan, num_workers=[2, 2], seed=5) == expected, plan


@pytest.mark.parametrize("plan", [("processes", "processes"), ("threads", "processes"), ("fork", "processes")])
def test_large_arrays_travel_through_both_levels(plan):
    def inner(array, factor):
        array *= factor
        return array

    def outer(array, number):
        results = mh.map(inner, [array] * 3, [1, 2, 3])
        assert array.sum() == array.size
        return [result + number for result in results]

    array = np.ones(200_000)
    for number, results in enumerate(mh.map(outer, [array] * 2, range(2), scheduler=plan, num_workers=[2, 2])):
        assert [float(result[7]) for result in results] == [number + 1, number + 2, number + 3]
        assert all(result.shape == array.shape for result in results)
    assert array.sum() == array.size


@pytest.mark.parametrize("plan", [("processes", "processes"), ("processes", "threads"), ("threads", "processes")])
def test_an_inner_error_names_both_tasks(plan):
    def inner(x):
        return 1 / x

    def outer(x):
        return mh.map(inner, [1, x])

    with config.set(scheduler=plan, num_workers=[2, 2]):
        for face in FACES.values():
            with pytest.raises(ZeroDivisionError) as caught:
                face(outer, [0])
            notes = "\n".join(caught.value.__notes__)
            assert "inner(0), item 1" in notes
            assert "outer(0)" in notes


@pytest.mark.parametrize("plan", [("processes", "processes"), ("threads", "processes")])
def test_an_inner_worker_that_dies_is_named_with_the_outer_task(plan):
    def inner(x):
        if x == 3:
            os._exit(7)
        return x

    def outer(x):
        return mh.map(inner, [1, x])

    with pytest.raises(mh.WorkerDied, match=r"inner\(3\), item 1") as caught:
        mh.map(outer, [3], scheduler=plan, num_workers=[1, 2])
    assert "outer(3)" in "\n".join(caught.value.__notes__)
    # The next call finds all in order.
    assert mh.map(outer, [4, 5], scheduler=plan, num_workers=[2, 2]) == [[1, 4], [1, 5]]


def test_what_inner_tasks_print_arrives(capfd):
    def inner(x):
        print(f"inner {x}")

    def outer(x):
        mh.map(inner, range(2))
        print(f"outer {x}")

    mh.map(outer, range(2), scheduler=["processes", "processes"], num_workers=[2, 2])
    shown = capfd.readouterr()
    assert sorted(shown.out.splitlines()) == ["inner 0"] * 2 + ["inner 1"] * 2 + ["outer 0", "outer 1"]
    assert shown.err == ""


# Ends

PROGRAM = """
    import os, sys, time
    import manyhands as mh
    plan = sys.argv[1].split(",")
    def inner(x):
        print("inner", os.getpid(), flush=True)
        time.sleep(600)
    def outer(x):
        return mh.map(inner, range(2))
    mh.map(outer, range(2), scheduler=plan, num_workers=[2, 2])
"""


def inner_pids(program):
    """The processes in which all four inner tasks run."""

    def told():
        return [int(line.split()[1]) for line in program.stdout.splitlines() if line.startswith("inner")]

    scripts.until(lambda: len(told()) == 4 or program.process.poll() is not None, "all inner tasks run")
    assert len(told()) == 4, program.wait()
    return told()


def gone(pids):
    return lambda: not any(map(scripts.is_alive, pids))


@pytest.mark.parametrize("plan", ["processes,processes", "threads,processes", "processes,threads", "fork,processes"])
def test_ctrl_c_reaches_the_inner_workers(plan, tmp_path):
    with scripts.start(tmp_path, PROGRAM, plan) as program:
        pids = inner_pids(program)
        os.kill(program.pid, signal.SIGINT)
        outcome = program.wait()
        assert outcome.stderr.rstrip().endswith("KeyboardInterrupt"), outcome
        scripts.until(gone(pids), "the inner workers have ended")
        scripts.until(lambda: not program.workers(), "nothing is left")


@pytest.mark.parametrize("plan", ["processes,processes", "threads,processes"])
def test_inner_workers_do_not_outlive_a_program_that_is_killed(plan, tmp_path):
    with scripts.start(tmp_path, PROGRAM, plan) as program:
        inner_pids(program)
        os.kill(program.pid, signal.SIGKILL)
        scripts.until(lambda: not program.workers(), "nothing is left")


def test_inner_workers_end_with_their_worker(tmp_path):
    """A worker is killed; its task runs once more, in another, and with other inner workers."""

    def inner(x):
        Path(tmp_path, f"{os.getpid()}").touch()
        scripts.until(lambda: Path(tmp_path, "go").exists(), "they may go")
        return x

    def outer(x):
        Path(tmp_path, f"outer-{os.getpid()}").touch()
        return mh.map(inner, [x, x])

    sys.path.insert(0, str(Path(__file__).parent))
    try:
        with config.set(scheduler=["processes", "processes"], num_workers=[1, 2]):
            future = mh.submit(outer, 5)
            scripts.until(lambda: len(os.listdir(tmp_path)) >= 3, "all run")
            first = os.listdir(tmp_path)
            (worker,) = [int(name[6:]) for name in first if name.startswith("outer")]
            os.kill(worker, signal.SIGKILL)
            inside = [int(name) for name in first if name.isdigit()]
            scripts.until(gone(inside), "the inner workers have ended")
            Path(tmp_path, "go").touch()
            assert future.result() == [5, 5]
    finally:
        sys.path.remove(str(Path(__file__).parent))


@pytest.mark.parametrize("plan", [("threads", "processes"), ("processes", "processes"), ("threads", "threads")])
def test_inner_calls_of_a_call_that_has_failed_end(plan, tmp_path, here):
    """Another task fails, so nobody wants what this one waits for."""

    def inner(x):
        path = Path(tmp_path, f"{os.getpid()}-{threading.get_native_id()}")
        path.touch()
        for _ in range(60_000):
            time.sleep(0.01)

    def outer(x):
        if x:
            scripts.until(lambda: len(os.listdir(tmp_path)) >= 2, "the inner tasks run")
            raise LookupError(x)
        return mh.map(inner, range(2))

    with pytest.raises(LookupError):
        mh.map(outer, range(2), scheduler=plan, num_workers=[2, 2], chunksize=1)
    inside = [tuple(map(int, name.split("-"))) for name in os.listdir(tmp_path)]
    if plan[1] == "processes":
        scripts.until(lambda: not any(scripts.is_alive(pid) for pid, _ in inside), "the inner workers have ended")
        assert mh.map(abs, [-1], scheduler=plan) == [1]
    else:
        mh.shutdown()
        scripts.until(
            lambda: not any(Path(f"/proc/{pid}/task/{thread}").exists() for pid, thread in inside),
            "the inner threads have ended",
        )


def test_nothing_is_left_of_inner_pools():
    def outer(_):
        return os.getpid(), mh.map(place, range(4))

    for _ in range(2):
        for plan in [
            ("processes", "processes"),
            ("threads", "processes"),
            ("fork", "processes"),
            ("threads", "threads"),
        ]:
            mh.map(outer, range(4), scheduler=plan, num_workers=[2, 2])
    mh.shutdown()
    scripts.until(lambda: not scripts.children(os.getpid()), "no worker is left")


def test_many_nested_calls_from_many_threads():
    def outer(x):
        return sum(mh.map(abs, [x] * 3))

    found = []

    def call(plan, n):
        found.append((n, mh.map(outer, [n] * 6, scheduler=plan, num_workers=[2, 2])))

    plans = [("processes", "threads"), ("threads", "processes"), ("threads", "threads")] * 3
    threads = [threading.Thread(target=call, args=(plan, n)) for n, plan in enumerate(plans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(scripts.PATIENCE_S)
    assert sorted(found) == [(n, [3 * n] * 6) for n in range(len(plans))]
