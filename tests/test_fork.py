"""What only forked workers do, and what they must not do to the process they were forked from."""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from scripts import PATIENCE_S, children, is_alive, shared_info, until

import manyhands as mh


@pytest.fixture(autouse=True)
def two_forked_workers():
    with mh.config.set(scheduler="fork", num_workers=2):
        yield
    mh.shutdown()


class Unpicklable:
    def __init__(self, value):
        self.value = value
        self.lock = threading.Lock()

    def __reduce__(self):
        raise TypeError("never to be pickled")

    def read(self):
        with self.lock:
            return self.value


def run(program, *, check=True, **settings):
    """Run a program of its own in a fresh interpreter."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        **settings,
    )
    assert not check or ran.returncode == 0, ran.stderr
    return ran


# What is there


def test_nothing_is_pickled_on_the_way_there(tmp_path):
    model = Unpicklable(3)
    handle = (tmp_path / "data").open("w+")
    handle.write("seven")
    handle.flush()
    use = lambda thing, add=0: thing.read() + add + len(os.pread(handle.fileno(), 5, 0))
    assert mh.map(use, [model, Unpicklable(4)]) == [8, 9]
    assert mh.compute(mh.delayed(use)(model, add=1), [mh.delayed(model.read)()]) == (9, [3])
    assert mh.submit(use, model, add=2).result() == 10
    assert list(mh.stream(lambda item: item + model.read(), range(3))) == [3, 4, 5]


def test_a_task_is_given_the_very_object_and_a_copy_of_it_changes():
    mine = [1]
    seen = mh.map(lambda item: (id(item), item.append(2)), [mine])
    assert seen == [(id(mine), None)]
    assert mine == [1]


def test_a_submitted_call_sees_everything_as_it_was_then():
    box = [0]
    futures = []
    for i in range(6):
        box[0] = i
        futures.append(mh.submit(lambda: box[0]))
    assert [future.result() for future in futures] == list(range(6))


def test_locks_and_thread_local_data_of_the_caller_are_its_own():
    lock = threading.RLock()
    local = threading.local()
    local.value = "mine"

    def use(_):
        with lock:
            return local.value

    with lock:
        assert mh.map(use, range(3)) == ["mine"] * 3


def test_large_results_come_back_whole_and_writable():
    import numpy

    large = numpy.arange(300_000.0)
    doubled = mh.map(lambda factor: large * factor, [1, 2, 3])
    summed = mh.compute(mh.delayed(numpy.add)(mh.delayed(lambda: large + 1)(), large))[0]
    assert all((array == large * factor).all() for factor, array in zip([1, 2, 3], doubled))
    assert (summed == 2 * large + 1).all()
    doubled[0][:] = 0
    assert large[1] == 1
    with mh.config.set(shared_memory_enabled=False):
        assert (mh.map(lambda _: large, [1])[0] == large).all()


LARGE = 300_000  # doubles: shared where they can be


def filled(value):
    import numpy

    return numpy.full(LARGE, float(value))


def born_shared(value):
    array = mh.shared.empty(LARGE)
    array[:] = value
    return array


def result_of_a_process(value):
    return mh.map(filled, [value], scheduler="processes", num_workers=1)[0]


def run_in_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    return thread.join


@pytest.mark.parametrize("face", ["submit", "map", "compute", "stream"])
@pytest.mark.parametrize("make", [filled, born_shared, result_of_a_process])
def test_children_see_what_the_parent_has_let_go_of(make, face, tmp_path):
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    held = [make(1)]
    seen = []

    def look(_):
        begun.touch()
        until(gate.exists, "the gate is open")
        return float(held[0].sum())

    def call():
        with mh.config.set(scheduler="fork"):
            calls = {
                "submit": lambda: mh.submit(look, 0).result(),
                "map": lambda: mh.map(look, [0])[0],
                "compute": lambda: mh.compute(mh.delayed(look)(0))[0],
                "stream": lambda: next(mh.stream(look, [0])),
            }
            seen.append(calls[face]())

    join = run_in_thread(call)
    try:
        until(begun.exists, "the child has been forked")
        held.clear()
        for value in range(2, 6):
            assert make(value)[0] == value
    finally:
        gate.touch()
        join()
    assert seen == [LARGE]


def in_use(_=None):
    return shared_info().n_bytes


def test_what_children_see_is_used_again_when_they_are_gone_and_what_came_later_before(tmp_path):
    gate = tmp_path / "gate"
    places = {"scheduler": "processes", "num_workers": 1}
    before = in_use(), mh.map(in_use, [0], **places)[0]
    held = [born_shared(1), result_of_a_process(1)]
    future = mh.submit(lambda: until(gate.exists, "the gate is open"))
    held.clear()
    n_bytes = 8 * LARGE
    for value in range(20):
        born_shared(value), result_of_a_process(value)
        assert in_use() <= before[0] + 3 * n_bytes
        assert mh.map(in_use, [0], **places)[0] <= before[1] + 3 * n_bytes
    assert in_use() >= before[0] + n_bytes
    gate.touch()
    future.result()
    until(lambda: (in_use(), mh.map(in_use, [0], **places)[0]) <= before, "all memory is free again")


def test_a_child_that_dies_is_forked_anew(tmp_path):
    model = Unpicklable(5)
    mark = tmp_path / "mark"

    def once(item):
        if item == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item + model.read()

    assert mh.map(once, range(4)) == [5, 6, 7, 8]
    mark.unlink()
    assert mh.submit(once, 2).result() == 7
    with pytest.raises(mh.WorkerDied) as died:
        mh.submit(os._exit, 9).result()
    assert died.value.exitcode == 9


def test_no_more_workers_than_tasks():
    """Counted from inside: each is forked before any of them is let out."""
    parent = os.getpid()
    before = children(parent)

    def siblings(_):
        return len(children(parent) - before)

    for n_tasks in (1, 3):
        # Those of a call that has returned may be about to end.
        until(lambda: not children(parent) - before, "no worker is left")
        assert max(mh.map(siblings, range(n_tasks), num_workers=8)) <= n_tasks


# What must be left alone


def test_exit_handlers_of_the_parent_do_not_run_in_children(tmp_path):
    """Those of the children do, as a rule: workers that take long to end, as on a busy machine, are ended by force."""
    log = tmp_path / "log"
    program = f"""
        import atexit, os, tempfile, weakref
        import manyhands as mh
        log = {str(log)!r}
        def note(what):
            with open(log, "a") as file:
                file.write(what + "\\n")
        atexit.register(note, "parent")
        kept = tempfile.TemporaryDirectory()
        if mh.map(lambda _: atexit.register(note, "child") is note, [1], scheduler="fork") != [True]:
            raise SystemExit("no handler")
        mh.shutdown()
        assert os.path.isdir(kept.name)
    """

    def have_all_run():
        log.unlink(missing_ok=True)
        assert run(program).stderr == ""
        ended = log.read_text().split()
        assert ended in (["child", "parent"], ["parent"])
        return len(ended) == 2

    until(have_all_run, "the exit handler of the child has run")


def test_pools_that_a_task_has_made_end_with_its_worker(tmp_path):
    """Their workers are told to, and so run their own exit handlers, rather than find their parent gone.

    Once is enough: workers that take long to end, as on a busy machine, are ended by force.
    """
    log = tmp_path / "log"

    def nest(_):
        def leave(_):
            import atexit

            atexit.register(log.touch)

        mh.map(leave, [1], scheduler="processes", num_workers=1)

    # Also where the parent has had pools, and their exit handler.
    mh.map(abs, [-1], scheduler="processes")

    def has_run():
        parent = os.getpid()
        before = children(parent)
        mh.map(nest, [1])
        until(lambda: children(parent) <= before, "the worker has ended")
        return log.exists()

    until(has_run, "the exit handler of the inner worker has run")


def test_what_the_parent_printed_is_printed_once():
    ran = run(
        """
        import sys
        import manyhands as mh
        print("from the parent", end=" ")
        sys.stderr.write("and its errors ")
        mh.map(print, ["a", "b"], scheduler="fork", num_workers=2)
        print("end")
        """
    )
    assert ran.stdout.count("from the parent") == 1
    assert ran.stderr.count("and its errors") == 1
    assert sorted(ran.stdout.replace("from the parent ", "").split()) == ["a", "b", "end"]


def test_signal_handlers_of_the_parent_are_not_those_of_children():
    def handlers(_):
        return [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGUSR1)]

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert mh.map(handlers, [1]) == [[True, True]]
    finally:
        signal.signal(signal.SIGUSR1, before)


def sockets():
    """The sockets of this process, each by its number in the system."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # it was that of the listing
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def test_children_hold_nothing_of_other_workers():
    """Connections of other pools, and those of one's siblings, are not kept open."""
    mh.shutdown()
    others = sockets()
    assert mh.map(abs, [-1], scheduler="processes") == [1]
    waiting = mh.submit(time.sleep, 0)
    connections = sockets() - others
    assert connections

    both = mh.map(lambda _: (os.getpid(), sockets() - others), range(40), num_workers=2, chunksize=1)
    assert all(not held & connections for _, held in both)
    held_by = dict(both)
    assert all(len(held) == 1 for held in held_by.values()), "a connection of its own, and no more"
    assert len(set.union(*held_by.values())) == len(held_by)
    assert waiting.result() is None
    assert mh.map(abs, [-2], scheduler="processes") == [2]


def test_inherited_objects_of_the_engine_may_be_dropped():
    held = [mh.submit(abs, -1) for _ in range(3)]
    streams = [mh.stream(abs, range(5), scheduler="processes")]
    assert next(streams[0]) == 0

    def drop(item):
        held.clear()
        streams.clear()
        gc.collect()
        with open(os.devnull) as file:
            return item, file.read()

    assert mh.map(drop, range(4)) == [(item, "") for item in range(4)]
    assert [future.result() for future in held] == [1, 1, 1]
    assert list(streams[0]) == [1, 2, 3, 4]


def check_that_random_numbers_differ():
    """Those of tasks from each other's, and from the parent's."""
    import numpy

    n_tasks = 40
    drawn = mh.map(lambda _: (random.random(), numpy.random.random()), range(n_tasks), chunksize=1)
    drawn.append((random.random(), numpy.random.random()))
    for numbers in zip(*drawn):
        assert len(set(numbers)) == n_tasks + 1


@pytest.fixture
def numpy_random():
    """NumPy's global generator, which the test may exchange."""
    import numpy

    before = numpy.random.get_bit_generator()
    yield numpy.random
    numpy.random.set_bit_generator(before)


def test_random_numbers_differ(numpy_random):
    random.seed(1)
    numpy_random.seed(1)
    check_that_random_numbers_differ()


def test_random_numbers_of_any_generator_differ(numpy_random):
    class Own(numpy_random.PCG64):
        def __init__(self, seed):
            super().__init__(seed)

    for generator in (numpy_random.PCG64(1), numpy_random.Philox(1), Own(1)):
        numpy_random.set_bit_generator(generator)
        check_that_random_numbers_differ()
        assert numpy_random.get_bit_generator() is generator
        (kind,) = set(mh.map(lambda _: type(numpy_random.get_bit_generator()), range(2)))
        assert kind is (type(generator) if type(generator) is not Own else numpy_random.MT19937)


def test_another_thread_may_be_drawing_random_numbers():
    """It has the lock of the global generator at the moment of the fork, and there is no such thread in the child."""
    ran = run(
        """
        import threading, numpy
        import manyhands as mh
        lock = numpy.random.get_bit_generator().lock
        is_held, is_over = threading.Event(), threading.Event()
        def draw():
            with lock:
                is_held.set()
                is_over.wait()
        thread = threading.Thread(target=draw)
        thread.start()
        is_held.wait()
        drawn = mh.map(lambda _: numpy.random.random(), range(8), scheduler="fork", num_workers=2)
        is_over.set()
        thread.join()
        print(len({*drawn, numpy.random.random()}))
        """
    )
    assert ran.stdout == "9\n"


def test_a_thread_that_ends_does_not_take_its_children_along(tmp_path):
    """The system's signal on the death of a parent is about the thread that forked."""
    gate = tmp_path / "gate"

    def wait():
        until(gate.exists, "the gate is open")
        return 1

    futures = []
    thread = threading.Thread(target=lambda: futures.append(mh.submit(wait)))
    thread.start()
    thread.join()
    gate.touch()
    assert futures[0].result() == 1


def test_children_do_not_outlive_a_parent_that_is_killed():
    program = """
        import os, time
        import manyhands as mh
        def tell(_):
            print(os.getpid(), flush=True)
            time.sleep(600)
        mh.map(tell, range(2), scheduler="fork", num_workers=2, chunksize=1)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    until(lambda: not any(map(is_alive, pids)), "the children are gone")
    parent.stdout.close()


def test_ctrl_c_ends_them():
    program = """
        import os, time
        import manyhands as mh
        def tell(_):
            print(os.getpid(), flush=True)
            time.sleep(600)
        try:
            mh.map(tell, range(2), scheduler="fork", num_workers=2, chunksize=1)
        except KeyboardInterrupt:
            print("interrupted", mh.map(abs, [-1], scheduler="fork"), flush=True)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(signal.SIGINT)
    assert parent.stdout.readline() == "interrupted [1]\n"
    until(lambda: not any(map(is_alive, pids)), "the children are gone")
    assert parent.wait() == 0
    parent.stdout.close()


@pytest.mark.parametrize("face", ["map", "compute", "stream", "submit"])
@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGUSR1"])
@pytest.mark.parametrize("receiver", ["this thread", "another thread"])
def test_ctrl_c_during_a_fork_is_not_lost(face, moment, number, receiver):
    """The first worker may compute already while the second is being forked; nothing is missing any more then.

    The system gives a signal to any thread that takes it. And other signals may have handlers that raise as well.
    """
    program = f"""
        import os, signal, threading, time
        import manyhands as mh
        n_left = {1 if face == "submit" else 2}

        def interrupt(*_):
            raise KeyboardInterrupt

        signal.signal(signal.SIGUSR1, interrupt)
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        receiver = threading.enumerate()[-1 if {receiver!r} == "another thread" else 0]

        def press():
            global n_left
            n_left -= 1
            if n_left == 0:
                signal.pthread_kill(receiver.ident, signal.{number})
                # Whatever a handler raises is raised by the next few lines.
                end = time.monotonic() + 0.05
                while time.monotonic() < end:
                    pass

        os.register_at_fork({moment}=press)
        calls = {{
            "map": lambda: mh.map(time.sleep, [600] * 2, num_workers=2, chunksize=1),
            "compute": lambda: mh.compute([mh.delayed(time.sleep)(600) for _ in range(2)], num_workers=2),
            "stream": lambda: list(mh.stream(time.sleep, [600] * 2, num_workers=2, chunksize=1)),
            "submit": lambda: mh.submit(time.sleep, 600).result(),
        }}
        with mh.config.set(scheduler="fork"):
            try:
                calls[{face!r}]()
            except KeyboardInterrupt:
                print("interrupted", mh.map(abs, [-1]))
    """
    assert run(program).stdout == "interrupted [1]\n"


def test_nothing_piles_up():
    def held():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def deeds():
        mh.map(abs, range(4))
        mh.compute(mh.delayed(abs)(-1))
        list(mh.stream(abs, range(4)))
        assert mh.submit(abs, -1).result() == 1
        with pytest.raises(ZeroDivisionError):
            mh.map(lambda x: 1 / x, [1, 0])

    def is_no_more_than(before):
        return all(now <= then for now, then in zip(held(), before))

    mh.shutdown()
    # Of those that libraries used by other tests have started, there may be many.
    n_threads = held()[1]
    deeds()
    until(lambda: held()[1] <= n_threads, "threads of pools have ended")
    before = held()
    for _ in range(3):
        deeds()
    until(lambda: is_no_more_than(before), "no more descriptors or threads")


def test_classes_of_the_program_come_back_as_themselves():
    """By value they would be copies: their exceptions not caught, their objects not recognised."""
    ran = run(
        """
        import manyhands as mh

        class Failure(Exception):
            pass

        class Outer:
            class Point:
                def __init__(self, x):
                    self.x = x

        def double(x):
            return 2 * x

        def returning(x):
            return Outer.Point(x), Failure, double

        def raising(x):
            raise Failure(x)

        def replacing(x):
            global double
            double = lambda x: 3 * x
            class Point:
                x = 5
            return double, Point()

        def calling(x):
            return mh.map(returning, [x], scheduler="processes", num_workers=1)[0][0].x

        (point, failure, function), = mh.map(returning, [7], scheduler="fork")
        assert type(point) is Outer.Point and point.x == 7 and failure is Failure and function is double
        try:
            mh.map(raising, [7], scheduler="fork")
        except Failure as error:
            assert error.args == (7,)
        triple, point = mh.map(replacing, [7], scheduler="fork")[0]
        assert triple(2) == 6 and double(2) == 4 and point.x == 5
        assert mh.map(calling, [7], scheduler="fork") == [7]
        total = mh.delayed(lambda point, _: point)(mh.delayed(Outer.Point)(1), 2)
        assert type(mh.compute(total, scheduler="fork")[0]) is Outer.Point
        print("done")
        """
    )
    assert ran.stdout == "done\n"


# Where it is refused, or made safe


def test_libraries_that_do_not_survive_a_fork_are_refused():
    ran = run(
        """
        import polars
        import manyhands as mh
        frame = polars.DataFrame({"a": list(range(100_000))})
        frame.group_by(polars.col("a") % 7).len().height
        try:
            mh.map(abs, [-1], scheduler="fork")
        except mh.ForkError as error:
            print(error)
        """
    )
    assert "Polars" in ran.stdout or "Tokio" in ran.stdout
    assert 'scheduler="processes"' in ran.stdout


def test_openmp_and_blas_work_in_children_after_they_were_used_in_the_parent():
    # Two threads on any machine, which do not spin while they wait: on a busy one that takes minutes.
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    ran = run(
        """
        import numpy as np, scipy.linalg
        from sklearn.ensemble import HistGradientBoostingRegressor
        import manyhands as mh
        x = np.random.default_rng(0).random((3000, 5))
        def fit(seed):
            lu = scipy.linalg.lu_factor(x[:300].T @ x[:300] + np.eye(5))[0]
            product = np.linalg.inv(np.eye(400) + (x[:400] @ x[:400].T))
            model = HistGradientBoostingRegressor(max_iter=3, random_state=0).fit(x, x[:, 0])
            return float(model.score(x, x[:, 0])), float(lu.sum()), float(product.sum())
        here = fit(0)
        there = mh.map(fit, range(4), scheduler="fork", num_workers=2)
        assert np.allclose(there, [here] * 4), (here, there)
        assert np.allclose(fit(0), here)
        print("done")
        """,
        env=environment,
    )
    assert ran.stdout == "done\n"


def test_a_library_is_found_out_whenever_it_begins_to_keep_threads():
    """Threads that have been looked at are not looked at for ever, and new ones are."""
    ran = run(
        """
        import threading, time
        import manyhands as mh
        is_over = threading.Event()
        def keep(name):
            with open("/proc/thread-self/comm", "w") as file:
                file.write(name)
            is_named.set()
            is_over.wait()
        for name in ["harmless"] * 3 + ["tokio-runtime-w"]:
            is_named = threading.Event()
            threading.Thread(target=keep, args=[name]).start()
            is_named.wait()
            for _ in range(4):
                try:
                    print(mh.submit(abs, -1).result())
                except mh.ForkError as error:
                    print(type(error).__name__)
        is_over.set()
        """,
        env={**os.environ, "MANYHANDS_SCHEDULER": "fork"},
    )
    assert ran.stdout.split() == ["1"] * 12 + ["ForkError"] * 4


def test_a_listing_of_threads_that_ends_early_hides_none():
    """The kernel's ends with a thread that ends meanwhile, whatever comes after it; once in many thousand times."""
    ran = run(
        """
        import os, threading
        import manyhands as mh
        list_whole = os.listdir
        n_listings = 0
        def list_in_part(path="."):
            global n_listings
            listed = list_whole(path)
            if path != "/proc/self/task":
                return listed
            n_listings += 1
            return listed if n_listings % 3 == 0 else [listed[0], str(2**22 + n_listings)]
        def keep():
            with open("/proc/thread-self/comm", "w") as file:
                file.write("rayon-worker-0")
            is_named.set()
            is_over.wait()
        is_named, is_over = threading.Event(), threading.Event()
        threading.Thread(target=keep).start()
        is_named.wait()
        os.listdir = list_in_part
        n_refused = 0
        for _ in range(12):
            try:
                mh.map(abs, [-1], scheduler="fork")
            except mh.ForkError:
                n_refused += 1
        is_over.set()
        print(n_refused)
        """
    )
    assert ran.stdout == "12\n"


def test_a_fork_from_a_handler_of_a_fork_is_an_error():
    ran = run(
        """
        import os
        import manyhands as mh
        found = []
        def handler():
            if not found:
                try:
                    mh.map(abs, [-1], scheduler="fork")
                except mh.Error as error:
                    found.append(str(error))
        os.register_at_fork(before=handler)
        assert mh.map(abs, [-1], scheduler="fork") == [1]
        print(found)
        """
    )
    assert "being forked already" in ran.stdout


def test_nested_calls_run_in_the_child():
    def nest(x):
        return os.getpid(), mh.map(lambda y: (os.getpid(), x + y), [1, 2])

    for pid, inner in mh.map(nest, [10, 20]):
        assert {inner_pid for inner_pid, _ in inner} == {pid}
    assert mh.map(lambda x: mh.map(lambda y: x + y, [1, 2], scheduler="fork"), [10]) == [[11, 12]]


def broken_streams():
    """What a program may have made of a stream."""
    yield "of text", io.StringIO()
    yield "above no descriptor", io.TextIOWrapper(io.BytesIO())
    detached = io.TextIOWrapper(io.BytesIO())
    detached.detach()
    yield "detached", detached
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    yield "closed", closed
    yield "above another descriptor", open(os.devnull, "w")
    yield "nothing", None
    yield "no stream", object()


@pytest.mark.parametrize("name, stream", list(broken_streams()))
def test_streams_that_are_replaced_in_the_parent(name, stream, capfd, monkeypatch):
    def tell(_):
        print("told by a child")
        print("and its errors", file=sys.stderr)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        mh.map(tell, [1])
    shown = capfd.readouterr()
    if name in ("of text", "above no descriptor"):
        written = stream.getvalue() if name == "of text" else stream.buffer.getvalue().decode()
        assert sorted(written.splitlines()) == ["and its errors", "told by a child"]
        assert (shown.out, shown.err) == ("", "")
    elif name in ("nothing", "above another descriptor"):
        # As if the program itself had written there.
        assert (shown.out, shown.err) == ("", "")
    else:
        assert (shown.out, shown.err) == ("told by a child\n", "and its errors\n")
