"""Resources of single tasks of a graph: who needs what, side by side with tasks that need nothing."""

from __future__ import annotations

import os
import pickle
import threading
import time
from pathlib import Path

import pytest
import scripts
from test_resources import use

import manyhands as mh
from manyhands import config


@pytest.fixture(autouse=True)
def end_workers():
    yield
    mh.shutdown()


def plus(*numbers):
    return sum(numbers)


def meet(folder, own, others):
    """Whether all of these are here at once."""
    Path(folder, own).touch()
    deadline = time.monotonic() + 120
    while not all(Path(folder, other).exists() for other in others):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return own


def too_much(lazy, **settings):
    """The error for a graph with a task that can never run."""
    with config.set(scheduler="synchronous", resources={"licence": 2}), pytest.raises(mh.ConfigError) as caught:
        mh.compute(lazy, **settings)
    return str(caught.value)


#       +-- licensed (one at a time) --+
# start |                              | total
#       +-- free ----------------------+
@pytest.mark.parametrize("scheduler", ["processes", "threads"])
def test_tasks_with_and_without_needs_run_side_by_side(scheduler, tmp_path):
    """One licensed task waits for two free ones, and they for it: all three run at the same time."""
    folder = str(tmp_path)
    start = mh.delayed(str)(folder)
    licensed = mh.delayed(meet, resources={"licence": 1})(start, "licensed", ["one", "two"])
    free = [mh.delayed(meet)(start, own, ["licensed"]) for own in ("one", "two")]
    with config.set(scheduler=scheduler, num_workers=3, resources={"licence": 1}):
        assert mh.compute([licensed, *free]) == (["licensed", "one", "two"],)


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
@pytest.mark.parametrize("way", ["delayed", "block"])
def test_no_more_run_at_once_than_there_is_enough_for(scheduler, way, tmp_path):
    """In a graph where tasks have different needs, and those that need nothing are as many."""
    folder = str(tmp_path)
    counted: dict[str, list] = {"one": [], "two": []}
    free = []
    for i in range(8):
        begun = mh.delayed(plus)(i, 1)
        free.append(mh.delayed(plus)(begun, 1))
        for name, needs in (("one", {"licence": 1}), ("two", {"licence": 2, "line": 1})):
            if way == "delayed":
                task = mh.delayed(use, resources=needs)(folder, name, begun)
            else:
                with mh.resources(**needs):
                    task = mh.delayed(use)(folder, name, begun)
            counted[name].append(task)
    with config.set(scheduler=scheduler, num_workers=4, resources={"licence": 3, "line": 5}):
        found, sums = mh.compute(counted, free)
    assert sums == [i + 2 for i in range(8)]
    assert max(found["one"]) <= 3
    assert max(found["two"]) == 1
    # A call says what concerns all of its tasks, in addition.
    with config.set(scheduler=scheduler, num_workers=4, resources={"licence": 3, "line": 1}):
        found, sums = mh.compute(counted, free, resources={"line": 1})
    assert max(found["one"]) == max(found["two"]) == 1
    assert sums == [i + 2 for i in range(8)]


def test_a_task_that_can_never_run_is_named_before_anything_runs(tmp_path):
    ran = tmp_path / "ran"
    first = mh.delayed(lambda: ran.touch())()
    big = mh.delayed(plus, resources={"licence": 3})(first, dask_key_name="too big")
    last = mh.delayed(plus)(big)
    for scheduler in ["processes", "threads", "synchronous"]:
        with config.set(scheduler=scheduler, resources={"licence": 2}):
            for run in (mh.compute, mh.persist):
                with pytest.raises(mh.ConfigError) as caught:
                    run(last)
                text = str(caught.value)
                assert "the task plus(" in text, text
                assert "(key too big) asks for 3 of 'licence', and there are 2" in text, text
    assert not ran.exists()
    with config.set(resources={"licence": 3}):
        assert mh.compute(mh.delayed(plus, resources={"licence": 3})(1, 2)) == (3,)


def test_fork_and_calls_inside_of_tasks_refuse():
    lazy = mh.delayed(plus, resources={"licence": 1})(1, dask_key_name="own")
    with config.set(resources={"licence": 2}):
        with pytest.raises(
            mh.ConfigError, match=r"of the task plus\(1\) \(key own\): with scheduler=\"fork\" each call"
        ):
            lazy.compute(scheduler="fork")
        for scheduler in ["processes", "threads", "synchronous"]:
            with pytest.raises(mh.ConfigError, match=r"of the task plus\(1\) \(key own\), in a call that a task makes"):
                mh.map(lambda _: lazy.compute(), [0], scheduler=scheduler)
        # A block around a task is not for what the task writes down.
        with mh.resources(licence=1):
            inner = mh.map(lambda _: mh.delayed(plus)(2).compute(), [0], scheduler="synchronous")
        assert inner == [2]


# What keeps the need, and what has none


class Model:
    size = 3

    def fit(self, x):
        return self, x


def test_what_is_called_needs_it_and_what_is_made_of_the_result_does_not():
    model = mh.delayed(Model(), resources={"licence": 3})
    needing = [
        mh.delayed(plus, resources={"licence": 3})(1),
        model.fit(1),
        model.size,
        model.fit(1)[1],
        mh.delayed(plus)([model.fit(1)[1]]),
        *mh.delayed(divmod, nout=2, resources={"licence": 3})(7, 2),
        mh.delayed(resources={"licence": 3})(plus)(1),
    ]
    for lazy in needing:
        assert "asks for 3 of 'licence'" in too_much(lazy)
        assert "asks for 3 of 'licence'" in too_much(pickle.loads(pickle.dumps(lazy)))
        assert "licence: 3" in lazy.visualize()
    text = mh.delayed(divmod, nout=2, resources={"licence": 3})(7, 2)[0].visualize()
    assert text.count("licence: 3") == 1
    assert 'label="divmod(7, 2)\\nlicence: 3"' in text
    assert "licence" not in mh.delayed(plus)(1).visualize()


def test_a_block_is_for_what_is_written_down_in_it():
    plain = mh.delayed(plus)
    before = plain(1)
    with mh.resources(licence=3):
        inside = [before + 1, plain(before), before.real, mh.delayed([before]), -before]
        none = mh.delayed(plus, resources={})(1)
        with mh.resources(licence=0):
            inner = plain(1)
        again = plain(1)
        held = mh.delayed(Model())
    for lazy in (*inside, again):
        assert "asks for 3 of 'licence'" in too_much(lazy)
    with config.set(scheduler="synchronous"):
        assert mh.compute(before, none, inner, plain(1), held.size) == (1, 1, 1, 1, 3)


def test_blocks_are_of_their_thread():
    made = []
    with mh.resources(licence=3):
        thread = threading.Thread(target=lambda: made.append(mh.delayed(plus)(1)))
        thread.start()
        thread.join()
    assert made[0].compute(scheduler="synchronous") == 1


def test_one_task_of_several_equal_ones_needs_the_most_of_them():
    pure = mh.delayed(plus, pure=True)
    with mh.resources(licence=1, line=1):
        first = pure(1, 2)
    with mh.resources(licence=2):
        second = pure(1, 2)
    text = mh.delayed(list)([pure(1, 2), first, second]).visualize()
    assert "licence: 2, line: 1" in text
    assert text.count("label=") == 2


def test_what_is_persisted_needs_nothing_any_more_and_what_is_built_on_it_does(tmp_path):
    with config.set(scheduler="threads", num_workers=2, resources={"licence": 2}):
        (kept,) = mh.persist(mh.delayed(plus, resources={"licence": 2})(1, 2))
    with config.set(scheduler="synchronous", resources={}):
        assert (kept + 1).compute() == 4
    assert "asks for 3" in too_much(mh.delayed(plus, resources={"licence": 3})(kept))


def test_resources_that_are_none():
    for wrong in ({"gpu": -1}, {"gpu": 1.5}, 3):
        with pytest.raises(mh.ConfigError, match="is not accepted. Accepted: whole numbers of units"):
            mh.delayed(plus, resources=wrong)
    with pytest.raises(ValueError, match="which is a Delayed already"):
        mh.delayed(mh.delayed(plus)(1), resources={"gpu": 1})


# Failures


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
def test_what_is_tried_again_or_fails_gives_back(scheduler, tmp_path):
    def flaky(number):
        mark = Path(tmp_path, f"{scheduler}-{number}")
        if not mark.exists():
            mark.touch()
            raise LookupError(number)
        return number

    def fail(number):
        raise LookupError(number)

    licensed = {"licence": 1}
    with config.set(scheduler=scheduler, num_workers=2, resources=licensed):
        tried = [mh.delayed(flaky, resources=licensed)(i) for i in range(4)]
        free = [mh.delayed(plus)(one, 1) for one in tried]
        assert mh.compute(tried, free, retries=1, retry_delay=0.01) == ([0, 1, 2, 3], [1, 2, 3, 4])
        for _ in range(2):
            with pytest.raises(LookupError):
                mh.compute([mh.delayed(fail, resources=licensed)(i) for i in range(3)], mh.delayed(plus)(1))
        lost = mh.delayed(fail, resources=licensed)(1)
        assert mh.compute([mh.delayed(plus)(lost), mh.delayed(plus, resources=licensed)(2)], on_error="skip") == ([2],)


def test_a_worker_that_dies_and_a_call_that_is_cancelled_give_back(tmp_path):
    def dies_once(number):
        mark = Path(tmp_path, "died")
        if not mark.exists():
            mark.touch()
            os._exit(3)
        return number

    def dies(_):
        os._exit(3)

    licensed = {"licence": 1}
    with config.set(scheduler="processes", num_workers=2, resources=licensed):
        tasks = [mh.delayed(dies_once, resources=licensed)(i) for i in range(3)]
        assert mh.compute(tasks, mh.delayed(plus)(*tasks)) == ([0, 1, 2], 3)
        with pytest.raises(mh.WorkerDied):
            mh.delayed(dies, resources=licensed)(1).compute()
        assert mh.compute([mh.delayed(plus, resources=licensed)(i) for i in range(3)]) == ([0, 1, 2],)


def test_ctrl_c_gives_back(tmp_path):
    program = """
        import sys, time
        import manyhands as mh
        mh.config.set(scheduler="processes", num_workers=2, resources={"licence": 1})
        def wait(_):
            print("runs", flush=True)
            time.sleep(600)
        one = mh.delayed(abs, resources={"licence": 1})
        try:
            mh.compute([mh.delayed(wait, resources={"licence": 1})(i) for i in range(3)], one(-1))
        except KeyboardInterrupt:
            print(mh.compute([one(-1), one(-2)]))
    """
    import signal

    with scripts.start(tmp_path, program) as started:
        started.wait_for("runs")
        os.kill(started.pid, signal.SIGINT)
        assert started.wait().stdout.endswith("([1, 2],)\n")


def test_with_a_checkpoint_what_is_stored_needs_nothing(tmp_path):
    kept = tmp_path / "kept"
    ran = tmp_path / "ran"

    def note(number):
        with ran.open("a") as file:
            file.write(f"{number} ")
        return number

    first = mh.delayed(note, resources={"licence": 2})(1)
    with config.set(scheduler="processes", num_workers=2, resources={"licence": 2}):
        assert mh.compute(mh.delayed(plus)(first, 1), checkpoint=str(kept)) == (2,)
        both = [mh.delayed(plus)(first, 1), mh.delayed(note, resources={"licence": 1})(2)]
        assert mh.compute(both, checkpoint=str(kept)) == ([2, 2],)
    assert ran.read_text() == "1 2 "


# Devices


def devices(folder):
    own = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    return own, os.getpid(), use(folder, f"device {own.split(',')[0]}")


def test_tasks_of_one_graph_may_need_different_numbers_of_devices(tmp_path, monkeypatch):
    """A worker sees as many as the task that needs the most; its first are those of a task that needs less."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = str(tmp_path)
    one = [mh.delayed(devices, resources={"gpu": 1})(folder) for _ in range(8)]
    two = [mh.delayed(devices, resources={"gpu": 2})(folder) for _ in range(8)]
    free = [mh.delayed(plus)(i) for i in range(50)]
    with config.set(scheduler="processes", num_workers=3, resources={"gpu": 4}):
        found_one, found_two, sums = mh.compute(one, two, free)
        assert sums == list(range(50))
        by_worker = {pid: own for own, pid, _ in found_one + found_two}
        for own, pid, most in found_one + found_two:
            assert own in ("0,1", "2,3", "1,0")
            # No worker changes its own, and nobody else is on them meanwhile.
            assert (by_worker[pid], most) == (own, 1)
        # Of a graph in which each needs one, each sees one.
        (alone,) = mh.compute(one)
        assert {own for own, *_ in alone} <= {"0", "1", "2", "3"}
        assert {most for *_, most in alone} == {1}


def test_tasks_that_need_one_device_run_side_by_side_where_another_needs_all(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def meet(number):
        Path(tmp_path, str(number)).touch()
        deadline = time.monotonic() + 120
        while len(os.listdir(tmp_path)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    one = [mh.delayed(meet, resources={"gpu": 1})(i) for i in range(2)]
    two = mh.delayed(plus, resources={"gpu": 2})(1)
    with config.set(scheduler="processes", num_workers=2, resources={"gpu": 2}):
        found, _ = mh.compute(one, two)
    assert set(found) == {"0,1", "1,0"}


# Executors


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
def test_calls_of_an_executor(scheduler, tmp_path):
    folder = str(tmp_path)
    with config.set(resources={"licence": 2}):
        with mh.Executor(4, scheduler=scheduler, resources={"licence": 1}) as executor:
            futures = [executor.submit(use, folder, "use") for _ in range(8)]
            found = list(executor.map(use, [folder] * 8, ["use"] * 8))
            assert max(found + [future.result() for future in futures]) <= 2
        with mh.resources(licence=2):
            executor = mh.Executor(4, scheduler=scheduler)
        with executor:
            assert max(executor.map(use, [folder] * 8, ["use"] * 8)) == 1
        with pytest.raises(mh.ConfigError, match="asks for 3 of 'licence'"):
            mh.Executor(scheduler=scheduler, resources={"licence": 3})
        with pytest.raises(mh.ConfigError, match="no account is kept"):
            mh.Executor(scheduler="fork", resources={"licence": 1})
