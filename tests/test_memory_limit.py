"""Results that there is no memory for go to disk, and come back as they were; where that is full, an error says so."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import PATIENCE_S, check, run, until

import manyhands as mh

MIB = 1 << 20
N = MIB  # doubles: 8 MiB
SIZE = 8 * N
# Workers may make as many as a batch holds before anybody looks, and the last ones are taken before they could go.
A_FEW = 4 * SIZE


@pytest.fixture(params=["processes", "fork"])
def limited(request, tmp_path):
    """Room for four results, on two workers."""
    with mh.config.set(
        scheduler=request.param,
        num_workers=2,
        memory_limit=4 * SIZE,
        spill_directory=tmp_path,
        shared_memory_enabled=True,
    ):
        yield request.param
    gc.collect()
    assert os.listdir(tmp_path) == []
    until(lambda: left() == (0, 0), "nothing is left on disk, nor in memory")


@pytest.fixture
def spilled():
    """How much has gone to disk since the test began."""
    before = mh.shared.info().n_bytes_spilled
    return lambda: mh.shared.info().n_bytes_spilled - before


def have_ended(futures):
    """Whether all calls have; asking the futures themselves would take their results."""
    return all(future._pending.done() for future in futures)


def left():
    info = mh.shared.info()
    return info.n_bytes_waiting, info.n_bytes_on_disk


class Peak:
    """The most memory that results took while they waited."""

    def __enter__(self):
        self.n_bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._is_over.wait(0.001):
            self.n_bytes = max(self.n_bytes, mh.shared.info().n_bytes_waiting)

    def __exit__(self, *_exc):
        self._is_over.set()
        self._thread.join()


class Slow:
    """What takes the program its time to unpickle, so that more comes meanwhile."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return Slow._rebuilt, (self.array,)

    @staticmethod
    def _rebuilt(array):
        time.sleep(0.1)
        return Slow(array)


@mh.delayed
def filled(i, n=N):
    return np.full(n, float(i))


@mh.delayed
def total_of_all(arrays):
    return sum(float(array[0]) + float(array[-1]) for array in arrays)


@mh.delayed
def added(a, b):
    a += b
    return a


def test_a_reduction_of_more_than_there_is_memory_for(limited, spilled):
    """All leaves are needed at once: what is not in memory is read from disk, by the task itself."""
    with Peak() as peak:
        (total,) = mh.compute(total_of_all([filled(i) for i in range(40)]))
    assert total == 2 * sum(range(40))
    assert spilled() >= A_FEW
    # What two workers make before anybody looks comes on top.
    assert peak.n_bytes <= 24 * SIZE


def test_a_tree_keeps_few_results_and_stays_in_memory(limited, spilled):
    """Depth first, a tree of 64 leaves needs about as many results at once as it has levels."""
    level = [filled(i) for i in range(64)]
    while len(level) > 1:
        level = [added(a, b) for a, b in zip(level[::2], level[1::2])]
    with mh.config.set(memory_limit=32 * SIZE):
        (total,) = mh.compute(level[0])
    assert (total == sum(range(64))).all()
    assert spilled() < 16 * SIZE


@pytest.mark.parametrize("face", ["compute", "persist", "map", "stream", "submit"])
def test_results_that_the_program_asks_for_come_back_whole(limited, spilled, face):
    n_results = 20
    function = lambda i: np.full(N, float(i))
    if face == "compute":
        (results,) = mh.compute([filled(i) for i in range(n_results)])
    elif face == "persist":
        (kept,) = mh.persist([filled(i) for i in range(n_results)])
        (results,) = mh.compute(kept)
    elif face == "map":
        results = [slow.array for slow in mh.map(lambda i: Slow(np.full(N, float(i))), range(n_results))]
    elif face == "stream":
        # One by one: of a batch that comes at once, the program takes all at once, before any could go.
        stream = mh.stream(function, range(n_results), buffersize=n_results, chunksize=1)
        results = [next(stream)]
        until(lambda: spilled() >= A_FEW, "some are on disk")
        results.extend(stream)
    else:
        futures = [mh.submit(function, i) for i in range(n_results)]
        until(lambda: have_ended(futures), "all are done")
        until(lambda: spilled() >= A_FEW, "some are on disk")
        results = [future.result() for future in futures]
        del futures
    for i, result in enumerate(results):
        assert result.shape == (N,)
        assert (result == i).all()
    # They are the program's own from here on.
    for i, result in enumerate(results):
        assert result.flags.writeable
        result += 1
        assert (result == i + 1).all()
    mh.shutdown()
    assert all((result == i + 1).all() for i, result in enumerate(results))
    assert spilled() >= A_FEW


def test_plain_objects_go_to_disk_as_well(limited, spilled):
    texts = [mh.delayed(lambda i: [str(i)] * 3 + ["x" * SIZE])(i) for i in range(20)]
    (results,) = mh.compute(texts)
    assert results == [[str(i)] * 3 + ["x" * SIZE] for i in range(20)]
    assert spilled() >= A_FEW
    lists = [mh.delayed(lambda i: list(range(i, i + 100_000)))(i) for i in range(200)]
    (first,) = mh.compute(mh.delayed(lambda rows: [row[0] for row in rows])(lists))
    assert first == list(range(200))


def test_what_a_task_writes_to_a_result_from_disk_nobody_sees(limited, spilled):
    """Each leaf is read by two tasks, one of which writes to it."""
    leaves = [filled(i) for i in range(20)]
    all_there = total_of_all(leaves)

    @mh.delayed
    def spoil(array, _):
        array[:] = -1.0
        return float(array[0])

    @mh.delayed
    def look(array, *_):
        return float(array[0]), float(array[-1])

    spoiled = [spoil(leaf, all_there) for leaf in leaves]
    seen = [look(leaf, all_there, bad) for leaf, bad in zip(leaves, spoiled)]
    (found,) = mh.compute(seen)
    assert found == [(float(i), float(i)) for i in range(20)]
    assert spilled() >= A_FEW


def test_results_of_many_kinds_come_back_as_they_were(limited, spilled):
    import pandas as pd
    import pyarrow as pa

    def several(i):
        array = np.arange(float(N // 4)) + i
        return {
            "frame": pd.DataFrame({"a": array, "b": array[::-1]}),
            "table": pa.table({"x": array}),
            "bytes": bytes([i]) * MIB,
            "same": [array, array],
            "few": (i, None, "text"),
        }

    (results,) = mh.compute([mh.delayed(several)(i) for i in range(16)])
    for i, result in enumerate(results):
        expected = several(i)
        pd.testing.assert_frame_equal(result["frame"], expected["frame"])
        assert result["table"].equals(expected["table"])
        assert result["bytes"] == expected["bytes"]
        assert result["same"][0] is result["same"][1]
        assert result["few"] == expected["few"]
    assert spilled() >= A_FEW


def test_workers_that_die_take_nothing_with_them(limited, spilled, tmp_path):
    """What is on disk belongs to nobody; a task whose worker dies reads it again."""
    mark = tmp_path.parent / f"{tmp_path.name}-died"

    def die_once(arrays):
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [float(array[-1]) for array in arrays]

    (found,) = mh.compute(mh.delayed(die_once)([filled(i) for i in range(20)]))
    assert found == [float(i) for i in range(20)]
    assert spilled() >= A_FEW


def test_a_task_that_fails_leaves_nothing_on_disk(limited):
    @mh.delayed
    def fail(arrays):
        raise ValueError(len(arrays))

    for _ in range(3):
        with pytest.raises(ValueError, match="20"):
            mh.compute(fail([filled(i) for i in range(20)]))
        until(lambda: mh.shared.info().n_bytes_on_disk == 0, "nothing is left on disk")


def test_the_disk_has_its_space_back_once_nobody_reads_it(limited):
    """Call after call: the file is filled from the front again, and holes are where nothing is read any more."""
    for _ in range(3):
        (results,) = mh.compute([filled(i) for i in range(24)])
        on_disk = mh.shared.info().n_bytes_on_disk
        assert on_disk >= A_FEW
        del results[::2]
        gc.collect()
        until(lambda n=on_disk: mh.shared.info().n_bytes_on_disk < n, "half of it is free")
        del results
        gc.collect()
        until(lambda: mh.shared.info().n_bytes_on_disk == 0, "all of it is free")


def test_without_a_limit_nothing_goes_to_disk(spilled):
    with mh.config.set(scheduler="processes", num_workers=2, memory_limit="unlimited"):
        (results,) = mh.compute([filled(i) for i in range(12)])
        assert [float(result[0]) for result in results] == [float(i) for i in range(12)]
    assert spilled() == 0


def test_a_change_of_the_limit_holds_from_the_next_call_on(tmp_path, spilled):
    n_results = 16
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    # One at a time: at its second call the function is known, and a few batches would be all there is.
    with mh.config.set(scheduler="processes", num_workers=2, memory_limit=2 * SIZE, spill_directory=one, chunksize=1):
        (first,) = mh.compute([filled(i) for i in range(n_results)])
        # By then the engine has finished what it was writing.
        assert mh.map(abs, [-1, -2]) == [1, 2]
        n_first = spilled()
        assert n_first > 0
        with mh.config.set(memory_limit="unlimited"):
            mh.compute([filled(i) for i in range(n_results)])
            assert spilled() == n_first
        with mh.config.set(spill_directory=other):
            (second,) = mh.compute([filled(i) for i in range(n_results)])
            assert spilled() > n_first
    # A folder may go: what is there has no name in it.
    shutil.rmtree(one)
    for results in (first, second):
        assert [float(result[-1]) for result in results] == [float(i) for i in range(n_results)]


FULL = """
    import sys
    import time
    import numpy as np
    import manyhands as mh

    scheduler, directory = sys.argv[1:]
    mh.config.set(scheduler=scheduler, num_workers=2, memory_limit="24 MiB", spill_directory=directory)

    @mh.delayed
    def filled(i):
        return np.full(1 << 20, float(i))

    @mh.delayed
    def total(arrays):
        return sum(float(array[0]) for array in arrays)

    try:
        mh.compute(total([filled(i) for i in range(40)]))
    except MemoryError as error:
        print(error)
        print(*getattr(error, "__notes__", []))
    else:
        print("there was room")
    error = None

    def left():
        info = mh.shared.info()
        return info.n_bytes_waiting, info.n_bytes_on_disk

    for _ in range(6000):
        if left() == (0, 0):
            break
        time.sleep(0.01)
    print(*left())
    print(mh.compute(total([filled(i) for i in range(3)])))
"""


def on_a_full_disk(folder, program, *args):
    """Run a program that has 20 MB of disk; None where this system lets nobody arrange that."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = f"mount -t tmpfs -o size=20m none {disk} && exec"
    for options in ("-m", "-rm"):
        tried = subprocess.run(["unshare", options, "sh", "-c", f"{mounted} true"], capture_output=True)
        if tried.returncode == 0:
            path = folder / "full.py"
            path.write_text(textwrap.dedent(program))
            words = [sys.executable, str(path), *args, str(disk)]
            command = f'{mounted} "$@"'
            return subprocess.run(
                ["unshare", options, "sh", "-c", command, "sh", *words],
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
    return None


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_a_full_disk_is_an_error_that_says_all_and_the_next_call_works(scheduler, tmp_path):
    ran = on_a_full_disk(tmp_path, FULL, scheduler)
    if ran is None:
        pytest.skip("this system lets nobody mount a small disk")
    assert (ran.returncode, ran.stderr) == (0, "")
    message, *rest = ran.stdout.splitlines()
    assert "the result of the task filled(" in message
    assert "which takes 8 MiB" in message
    assert "of 24 MiB that they may take (the setting memory_limit)" in message
    assert str(tmp_path / "disk") in message
    assert "No space left on device" in message
    assert rest[-2:] == ["0 0", "(3.0,)"]


def test_a_folder_that_is_gone_is_the_same_error(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    with mh.config.set(scheduler="processes", num_workers=2, memory_limit=2 * SIZE, spill_directory=gone):
        gone.rmdir()
        with pytest.raises(MemoryError, match="No such file or directory") as caught:
            mh.compute(total_of_all([filled(i) for i in range(40)]))
        assert "filled(" in str(caught.value)
        assert str(gone) in str(caught.value)
        with pytest.raises(MemoryError, match="item "):
            for _ in zip(mh.stream(lambda i: np.full(N, float(i)), range(200)), iter(lambda: time.sleep(0.05), 0)):
                pass
        assert mh.compute(total_of_all([filled(1)])) == (2.0,)


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_futures_that_there_is_no_room_for_say_so(scheduler, tmp_path):
    """Their calls have ended well; memory must not grow on account of results that nobody reads."""
    gone = tmp_path / "gone"
    gone.mkdir()
    with mh.config.set(scheduler=scheduler, num_workers=2, memory_limit=4 * SIZE, spill_directory=gone):
        gone.rmdir()
        futures = [mh.submit(np.full, N, float(i)) for i in range(24)]
        until(functools.partial(have_ended, futures), "all are done")
        until(lambda: left()[0] <= 4 * SIZE, "they take no more than they may")
        n_good, errors = 0, []
        for i, future in enumerate(futures):
            try:
                assert (future.result() == i).all()
                n_good += 1
            except MemoryError as error:
                errors.append((i, str(error)))
        del futures, future
    assert n_good >= 1
    assert len(errors) >= 12
    for i, text in errors:
        assert "the result of the task full(" in text, i
        assert "No such file or directory" in text
    until(lambda: left() == (0, 0), "nothing is left")


def test_one_call_that_has_no_room_does_not_end_the_others(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()

    with mh.config.set(scheduler="processes", num_workers=2, memory_limit=8 * SIZE, spill_directory=gone):
        gone.rmdir()
        others = []
        # One that holds a little, for as long as the greedy one goes on.
        stop = threading.Event()

        def modest():
            while not stop.is_set():
                others.append(mh.compute(total_of_all([filled(1, N // 8), filled(2, N // 8)])))

        thread = threading.Thread(target=modest)
        thread.start()
        with pytest.raises(MemoryError, match="filled"):
            mh.compute(total_of_all([filled(i) for i in range(60)]))
        stop.set()
        thread.join()
        assert others
        assert set(others) == {(6.0,)}


def test_results_that_nobody_reads_do_not_keep_the_rest_waiting(tmp_path):
    """They take three quarters of the limit: enough to hold tasks back, and they go to disk for these."""
    with mh.config.set(scheduler="processes", num_workers=2, memory_limit=8 * SIZE, spill_directory=tmp_path):
        futures = [mh.submit(np.full, N, float(i)) for i in range(6)]
        until(lambda: have_ended(futures), "all are done")
        # Two tasks that wait for each other: one at a time, they would wait for ever.
        meeting = tmp_path / "meeting"
        meeting.mkdir()

        @mh.delayed
        def meet(name):
            (meeting / name).touch()
            until(lambda: len(os.listdir(meeting)) == 2, "the other one is there")
            return name

        assert mh.compute(mh.delayed("".join)([meet("a"), meet("b")])) == ("ab",)
        assert [float(future.result()[0]) for future in futures] == [float(i) for i in range(6)]


def test_tasks_are_begun_as_soon_as_there_is_room(tmp_path):
    """Nothing that a worker says wakes the engine here: it is the program that reads a result."""
    gone = tmp_path / "gone"
    gone.mkdir()
    with mh.config.set(scheduler="processes", num_workers=2, memory_limit=8 * SIZE, spill_directory=gone):
        gone.rmdir()
        futures = [mh.submit(bytes, SIZE) for _ in range(6)]
        until(lambda: have_ended(futures), "all are done")
        # By then the engine has looked at what they take.
        assert mh.map(abs, [-1, -2]) == [1, 2]
        meeting = tmp_path / "meeting"
        meeting.mkdir()

        @mh.delayed
        def meet(name):
            (meeting / name).touch()
            until(lambda: len(os.listdir(meeting)) == 2, "the other one is there")
            return name

        def read():
            until(lambda: os.listdir(meeting), "one has begun")
            time.sleep(0.2)
            n_begun.append(len(os.listdir(meeting)))
            for future in futures:
                assert len(future.result()) == SIZE

        n_begun = []
        thread = threading.Thread(target=read)
        thread.start()
        assert mh.compute(mh.delayed("".join)([meet("a"), meet("b")])) == ("ab",)
        thread.join()
        assert n_begun == [1]


TOO_LARGE = """
    import mmap
    import tempfile
    import numpy as np
    import manyhands as mh

    mh.config.set(num_workers=2)

    def sparse(*_):
        file = tempfile.TemporaryFile()
        file.truncate(1 << 40)
        return np.frombuffer(mmap.mmap(file.fileno(), 1 << 40, prot=mmap.PROT_READ), np.uint8)

    data = sparse()
    attempts = {
        "an argument": lambda: mh.map(len, [data]),
        "an argument of a task": lambda: mh.compute(mh.delayed(len)(data)),
        "a global": lambda: mh.map(lambda _: len(data), [1]),
        "a result": lambda: mh.map(sparse, [1]),
        "in a task": lambda: mh.map(lambda n: np.ones(n), [1 << 50]),
        "submitted": lambda: mh.submit(sparse).result(),
    }
    for what, attempt in attempts.items():
        try:
            attempt()
        except MemoryError as error:
            print(what, "|", error, "|", *getattr(error, "__notes__", ["no notes"]))
    print(mh.map(abs, [-1]))
"""


def test_what_is_larger_than_the_memory_is_an_error_that_names_it(tmp_path):
    outcome = run(tmp_path, TOO_LARGE)
    check(outcome)
    *lines, last = outcome.stdout.splitlines()
    assert last == "[1]"
    found = {what: (text, notes) for what, text, notes in (line.split(" | ") for line in lines)}
    assert set(found) == {"an argument", "an argument of a task", "a global", "a result", "in a task", "submitted"}
    named = {
        "an argument": "argument 1 of 'len'",
        "an argument of a task": "len(<ndarray (1099511627776,) uint8>)",
        "a global": "function '<lambda>.<locals>.<lambda>'",
        "a result": "sparse(1)",
        "in a task": "lambda(1125899906842624)",
        "submitted": "sparse()",
    }
    for what, (text, notes) in found.items():
        assert "1024.0 GiB" in text or "PiB" in text, what
        assert notes == "no notes" or named[what] in notes, what


shapes = st.lists(st.integers(0, 300_000), min_size=1, max_size=12)


def test_whatever_the_sizes_and_the_limit_results_are_the_same(spilled):
    """Graphs of which each task reads some of those before it, with and without room."""

    @settings(max_examples=25, deadline=None, database=None)
    @given(sizes=shapes, limit=st.integers(1024, 4 * MIB), data=st.data())
    def check_one(sizes, limit, data):
        reads = [
            data.draw(st.lists(st.integers(0, max(0, at - 1)), max_size=3 if at else 0)) for at in range(len(sizes))
        ]

        def graph():
            tasks = []
            for size, inputs in zip(sizes, reads):
                tasks.append(joined(size, *[tasks[at] for at in inputs]))
            return tasks

        (expected,) = mh.compute(graph(), scheduler="synchronous")
        with mh.config.set(scheduler="processes", num_workers=2, memory_limit=limit):
            (found,) = mh.compute(graph())
        assert all(np.array_equal(a, b) for a, b in zip(expected, found))
        # Next to no room, and one more task reads all results, a while after they have come.
        with mh.config.set(scheduler="processes", num_workers=2, memory_limit=1024):
            (same,) = mh.compute(mh.delayed(lambda *arrays: list(arrays))(*graph(), mh.delayed(time.sleep)(0.05)))
        assert all(np.array_equal(a, b) for a, b in zip(expected, same))

    @mh.delayed
    def joined(size, *arrays):
        made = np.arange(size, dtype=np.float64)
        for array in arrays:
            n = min(size, len(array))
            made[:n] += array[:n]
        return made

    check_one()
    assert spilled() > 0
