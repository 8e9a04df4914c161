"""The numbers of threads of numeric libraries: each task's share, and what `blas_threads` chooses."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import scripts

import manyhands as mh
from manyhands import _blas, _native, _pools, config

# More than any share below.
N_CPUS = 12


def n_threads():
    """How many threads the libraries use that have one number for the process."""
    return {library.n_threads for library in _blas.libraries() if library.name != "OpenMP"}


def n_openmp():
    return {library.n_threads for library in _blas.libraries() if library.name == "OpenMP"}


pytestmark = pytest.mark.skipif(not n_threads(), reason="this NumPy's linear algebra is none that can be told")


def openmp():
    """Load an OpenMP, as scikit-learn does."""
    from sklearn.utils import _openmp_helpers  # noqa: F401


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch):
    """As on a machine with so many CPUs, where nobody has set variables."""
    for name in _pools.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    config.refresh()
    monkeypatch.setattr(config._state, "n_cpus", N_CPUS)
    mh.shutdown()
    yield
    mh.shutdown()
    monkeypatch.undo()
    config.refresh()


def seen(*_args):
    np.ones((4, 4)) @ np.ones((4, 4))
    return n_threads()


@pytest.mark.parametrize("n_workers", [1, 2, 3, 6])
def test_tasks_have_their_share_of_the_cpus(n_workers):
    for scheduler in ("processes", "threads"):
        for found in mh.map(seen, range(2 * n_workers), scheduler=scheduler, num_workers=n_workers):
            assert found == {N_CPUS // n_workers}, scheduler
    scripts.until(lambda: n_threads() == BEFORE, "what was before is back")


BEFORE = n_threads()


def test_forked_workers_use_one_thread():
    assert mh.map(seen, range(2), scheduler="fork", num_workers=2) == [{1}] * 2
    nested = mh.map(lambda _: mh.map(seen, [0]), [0], scheduler=["fork", "threads"], num_workers=[2, 2])
    assert nested == [[{1}]]


def test_inner_levels_have_their_share_of_the_share():
    def outer(_):
        before = n_threads()
        inner = mh.map(seen, range(4))
        scripts_until(lambda: n_threads() == before)
        return before, inner

    for plan, own in [(("processes", "threads"), 6), (("processes", "processes"), 6), (("threads", "processes"), 6)]:
        for before, inner in mh.map(outer, range(2), scheduler=plan, num_workers=[2, 3]):
            assert before == {own}
            assert inner == [{2}] * 4, plan


def scripts_until(predicate):
    """Without the module `scripts`, which workers do not have."""
    import time

    deadline = time.monotonic() + 120
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_threads_within_threads():
    def outer(_):
        return mh.map(seen, range(2))

    assert mh.map(outer, range(2), scheduler=["threads", "threads"], num_workers=[2, 3]) == [[{2}] * 2] * 2
    scripts.until(lambda: n_threads() == BEFORE, "what was before is back")


def test_every_kind_of_call_holds_back_and_lets_go():
    with config.set(scheduler="threads", num_workers=4):
        assert mh.compute([mh.delayed(seen)(i) for i in range(3)]) == ([{3}] * 3,)
        assert list(mh.stream(seen, range(3))) == [{3}] * 3
        assert mh.submit(seen).result() == {3}
        with pytest.raises(ZeroDivisionError):
            mh.map(lambda x: 1 / x, [0])
    scripts.until(lambda: n_threads() == BEFORE, "what was before is back")


def test_of_calls_at_once_the_least_share_counts():
    entered, leave = threading.Event(), threading.Event()

    def hold(_):
        entered.set()
        assert leave.wait(120)
        return n_threads()

    results = []
    with config.set(scheduler="threads", num_workers=2):
        thread = threading.Thread(target=lambda: results.append(mh.map(hold, [0])))
        thread.start()
        assert entered.wait(120)
        assert n_threads() == {6}
        assert mh.map(lambda _: mh.map(seen, [0], scheduler="threads", num_workers=3), [0]) == [[{2}]]
        scripts.until(lambda: n_threads() == {6}, "the other's share is back")
        leave.set()
        thread.join()
    assert results == [[{6}]]
    scripts.until(lambda: n_threads() == BEFORE, "what was before is back")


def test_a_thread_that_was_given_up_holds_nothing_back():
    """It is in the middle of something that nobody can end."""
    reading, writing = os.pipe()
    began = threading.Event()

    def stand_still(_):
        began.set()
        os.read(reading, 1)

    stream = mh.stream(stand_still, [0], scheduler="threads", num_workers=N_CPUS)
    threading.Thread(target=lambda: next(stream, None), daemon=True).start()
    try:
        assert began.wait(scripts.PATIENCE_S)
        assert n_threads() == {1}
        stream.close()
        scripts.until(lambda: n_threads() == BEFORE, "what was before is back")
        assert mh.map(seen, [0], scheduler="threads", num_workers=1) == [{N_CPUS}]
    finally:
        os.write(writing, b"x")
        scripts.until(lambda: n_threads() == BEFORE, "what was before is back")
        os.close(writing)
        os.close(reading)


def test_openmp_has_a_number_for_each_thread():
    openmp()
    before = n_openmp()
    for n_workers in (2, 4):
        found = mh.map(lambda _: n_openmp(), range(8), scheduler="threads", num_workers=n_workers)
        assert found == [{N_CPUS // n_workers}] * 8
    assert n_openmp() == before
    with mh.blas_threads(5):
        assert n_openmp() == {5}
        assert mh.map(lambda _: n_openmp(), range(8), scheduler="threads", num_workers=2) == [{5}] * 8
    assert n_openmp() == before


def test_libraries_that_tasks_load_are_held_back(tmp_path):
    """They are found between tasks, or read the variables."""
    scripts.check(
        scripts.run(
            tmp_path,
            """
            import os, time
            import manyhands as mh
            from manyhands import _blas, config
            config.refresh()
            config._state.n_cpus = 12
            def seen(_):
                import numpy
                time.sleep(0.05)
                return {library.n_threads for library in _blas.libraries() if library.name != "OpenMP"}
            for scheduler in ["threads", "processes"]:
                found = mh.map(seen, range(6), scheduler=scheduler, num_workers=2)
                # Where it is loaded in the first task of a thread, that one may have begun before.
                print(found[-1])
            """,
        ),
        "{6}\n{6}\n",
    )


def test_the_persons_own_choice_is_left_alone(tmp_path):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "3"}
    scripts.check(
        scripts.run(
            tmp_path,
            """
            import os
            import numpy
            import manyhands as mh
            from manyhands import _blas, config
            config.refresh()
            config._state.n_cpus = 12
            def seen(_):
                numpy.ones((2, 2)) @ numpy.ones((2, 2))
                found = {library.n_threads for library in _blas.libraries() if library.name == "OpenBLAS"}
                return found or {3}, os.environ.get("OPENBLAS_NUM_THREADS")
            before, _ = seen(0)
            for settings in [
                {"scheduler": "threads", "num_workers": 2},
                {"scheduler": "processes", "num_workers": 2},
                {"scheduler": ["processes", "processes"], "num_workers": [2, 3]},
            ]:
                for found, variable in mh.map(seen, range(4), **settings):
                    assert (found, variable) == (before, "3"), (found, variable, settings)
                with mh.blas_threads(2):
                    for found, variable in mh.map(seen, range(4), **settings):
                        assert found == {2} or found == {3} == before, (found, settings)
                for found, variable in mh.map(seen, range(4), **settings):
                    assert (found, variable) == (before, "3"), (found, variable, settings)
            print("well")
            """,
            env=environment,
        ),
        "well\n",
    )


# blas_threads


def test_a_block_changes_the_running_session_and_ends():
    with mh.blas_threads(3) as libraries:
        assert n_threads() == {3}
        assert {library.n_threads for library in libraries if library.name != "OpenMP"} == {3}
        with mh.blas_threads(2):
            assert n_threads() == {2}
        assert n_threads() == {3}
    assert n_threads() == BEFORE
    assert not any(name in os.environ for name in _pools.THREAD_VARIABLES)


def test_a_block_reaches_tasks_wherever_they_run():
    for settings in [
        {"scheduler": "threads", "num_workers": 2},
        {"scheduler": "processes", "num_workers": 2},
        {"scheduler": "synchronous"},
    ]:
        shares = mh.map(seen, range(4), **settings)
        with mh.blas_threads(5):
            assert mh.map(seen, range(4), **settings) == [{5}] * 4
        scripts.until(lambda: n_threads() == BEFORE, "what was before is back")
        assert mh.map(seen, range(4), **settings) == shares
    with mh.blas_threads(5):
        nested = mh.map(lambda _: mh.map(seen, [0]), [0], scheduler=["processes", "threads"], num_workers=[2, 2])
        assert nested == [[{5}]]


def test_a_block_inside_of_a_task():
    def task(_):
        before = n_threads()
        with mh.blas_threads(2):
            inside = n_threads()
        return before, inside, n_threads()

    assert mh.map(task, range(4), scheduler="processes", num_workers=3) == [({4}, {2}, {4})] * 4
    with mh.blas_threads(7):
        assert mh.map(task, range(4), scheduler="processes", num_workers=3) == [({7}, {2}, {7})] * 4


def test_a_statement_holds_until_it_is_taken_back():
    try:
        mh.blas_threads(4)
        assert n_threads() == {4}
        mh.blas_threads(2)
        with mh.blas_threads(3):
            assert n_threads() == {3}
        assert n_threads() == {2}
        with mh.blas_threads(None):
            assert n_threads() == BEFORE
        assert n_threads() == {2}
    finally:
        mh.blas_threads(None)
    assert n_threads() == BEFORE


def test_a_block_ends_with_an_exception():
    with pytest.raises(KeyError), mh.blas_threads(2):
        raise KeyError
    assert n_threads() == BEFORE


def test_blocks_that_end_in_another_order():
    first, second = mh.blas_threads(3), mh.blas_threads(2)
    first.__enter__()
    second.__enter__()
    assert n_threads() == {3} or n_threads() == {2}
    first.__exit__(None, None, None)
    assert n_threads() == {2}
    second.__exit__(None, None, None)
    assert n_threads() == BEFORE


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", True, 10_001, [2]])
def test_numbers_that_are_none(number):
    with pytest.raises(ValueError, match="n_threads=.* is not accepted. Accepted: an integer from 1 to 10000, or None"):
        mh.blas_threads(number)
    assert n_threads() == BEFORE


def test_a_child_that_is_forked_amid_tasks_has_its_own_number_back():
    def fork(_):
        import multiprocessing

        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=lambda: queue.put((_native.task_level() is not None, n_threads())))
        child.start()
        found = queue.get()
        child.join()
        return found

    ((_, found),) = mh.map(fork, [0], scheduler="threads", num_workers=4)
    assert found == BEFORE
