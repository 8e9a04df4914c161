"""Worker processes that die, do not start, are resized and come back: real kills, real processes."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from random import Random

import pytest
from faces import FACES, run_with
from scripts import PATIENCE_S, check, children, is_alive, run, until

import manyhands as mh
from manyhands import _pools, config


@pytest.fixture(autouse=True)
def two_processes():
    with mh.config.set(scheduler="processes", num_workers=2):
        yield


@pytest.fixture(params=["processes", "fork"])
def either(request):
    """The worker processes there are, or such as are forked for the call."""
    with mh.config.set(scheduler=request.param):
        yield request.param


def workers():
    """The worker processes there are."""
    return sorted(_pools._processes.worker_pids()) if _pools._processes is not None else []


def appended(path):
    """What tasks have appended to a file, line by line."""
    return path.read_text().split() if path.exists() else []


def append(path, text):
    """Append a line, whole whatever happens next."""
    with open(path, "a") as file:
        file.write(f"{text}\n")


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


# How a task can end its worker, and how that is told
WAYS = {
    "exit": (lambda: os._exit(3), "exited with code 3"),
    "exit 0": (lambda: os._exit(0), "exited with code 0"),
    "segfault": (lambda: ctypes.string_at(0), "SIGSEGV"),
    "kill": (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
    "abort": (lambda: os.abort(), "SIGABRT"),
    "terminate": (lambda: os.kill(os.getpid(), signal.SIGTERM), "SIGTERM"),
    "close": (lambda: os.closerange(3, 256), "a task closed the connection"),
}


@pytest.mark.parametrize("face, way", [*[("map", way) for way in WAYS], *[(face, "exit") for face in FACES[1:]]])
def test_a_task_that_ends_its_worker_twice_is_named(face, way, either, capfd):
    die, told = WAYS[way]

    def fit(fold):
        if fold == 5:
            print("before the end", flush=True)
            die()
        return fold

    with pytest.raises(mh.WorkerDied) as caught:
        run_with(face, fit, range(12))
    error = caught.value
    assert "fit(5)" in error.task
    assert ("fit-" in str(error.key)) == (face == "compute")
    assert error.worker_pid not in (None, os.getpid())
    assert not is_alive(error.worker_pid)
    assert told in str(error)
    assert "before the end" in error.output
    assert (error.signal is None) == (error.exitcode is not None)
    assert "before the end" in capfd.readouterr().out
    assert mh.map(abs, [-1, -2]) == [1, 2]


@pytest.mark.parametrize("face", FACES)
def test_a_task_that_ends_its_worker_once_is_forgiven(face, either, tmp_path):
    marker = tmp_path / "once"

    def fit(fold):
        if fold == 5 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return fold * fold

    assert run_with(face, fit, range(40)) == [fold * fold for fold in range(40)]


@pytest.mark.parametrize("face", FACES)
def test_several_culprits_are_each_forgiven_once(face, either, tmp_path):
    culprits = {3, 4, 11, 29, 30}

    def fit(fold):
        marker = tmp_path / str(fold)
        if fold in culprits and not marker.exists():
            marker.touch()
            os._exit(1)
        return -fold

    assert run_with(face, fit, range(40)) == [-fold for fold in range(40)]


def test_of_several_culprits_one_is_named():
    def fit(fold):
        if fold % 7 == 0:
            os._exit(9)
        return fold

    with pytest.raises(mh.WorkerDied, match=r"fit\((0|7|14|21)\)") as caught:
        mh.map(fit, range(24))
    assert caught.value.exitcode == 9


def test_the_culprit_is_tried_again_alone(tmp_path):
    log = tmp_path / "log"

    def fit(fold):
        append(log, f"start-{fold}-{os.getpid()}")
        if fold == 6:
            time.sleep(0.05)
            os._exit(1)
        time.sleep(0.005)
        return fold

    with pytest.raises(mh.WorkerDied, match=r"fit\(6\)"):
        mh.map(fit, range(60))
    starts = [line.split("-")[1:] for line in appended(log)]
    assert [fold for fold, _ in starts].count("6") == 2
    second = [pid for fold, pid in starts if fold == "6"][1]
    after = [fold for fold, pid in starts if pid == second]
    assert after[-1] == "6"


def test_in_a_graph_what_was_computed_before_a_death_is_not_lost(either, tmp_path):
    log, marker = tmp_path / "log", tmp_path / "once"

    def load(part):
        append(log, f"load-{part}")
        return part

    def merge(*parts):
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return sum(parts)

    parts = [mh.delayed(load)(part) for part in range(6)]
    assert mh.compute(mh.delayed(merge)(*parts)) == (15,)
    assert sorted(appended(log)) == [f"load-{part}" for part in range(6)]


def test_memory_that_runs_out_is_the_task_s_own_error():
    def hoard():
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, hard))
        try:
            return len(bytearray(1 << 36))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    with pytest.raises(MemoryError):
        mh.submit(hoard).result()
    assert mh.map(abs, [-1, -2]) == [1, 2]


# Killed from outside


def test_workers_killed_while_idle_are_replaced():
    for _ in range(3):
        mh.map(abs, range(8))
        before = workers()
        assert len(before) == 2
        for pid in before:
            kill(pid)
        assert mh.map(abs, range(-50, 0)) == list(range(50, 0, -1))
        until(lambda before=before: not set(before) & set(workers()), "the dead are forgotten")


def test_all_workers_killed_at_once_amid_work():
    def nap(item):
        time.sleep(0.01)
        return item

    for _ in range(3):
        future = mh.submit(nap, 0)
        stream = mh.stream(nap, range(40))
        first = next(stream)
        for pid in workers():
            kill(pid)
        assert [first, *stream] == list(range(40))
        assert future.result() == 0


def test_a_stopped_worker_that_is_killed_is_replaced(tmp_path):
    def nap(item):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(0.02)
        return item

    stream = mh.stream(nap, range(30))
    first = next(stream)
    victim = workers()[0]
    kill(victim, signal.SIGSTOP)
    threading.Timer(0.3, kill, [victim]).start()
    assert [first, *stream] == list(range(30))


def test_a_map_survives_random_kills(tmp_path):
    """A hundred of them. A task that is hit twice may be blamed: nobody can tell it from a culprit."""
    n_kills = 100
    progress = tmp_path / "progress"
    progress.touch()
    n_killed = 0
    is_over = threading.Event()

    def attack():
        nonlocal n_killed
        random = Random(7)
        goal = 1
        while n_killed < n_kills and not is_over.wait(0.0005):
            size = progress.stat().st_size
            if size >= goal:
                # By what was done rather than by time: on a slow machine nothing would get done in between.
                goal = size + random.randint(1, 40)
                for pid in workers()[random.randrange(2) :][:1]:
                    kill(pid)
                    n_killed += 1

    def square(item):
        with open(progress, "ab", buffering=0) as file:
            file.write(b".")
        return item * item

    attacker = threading.Thread(target=attack)
    attacker.start()
    n_right = 0
    blamed_on = []
    try:
        while n_killed < n_kills:
            try:
                assert mh.map(square, range(500)) == [item * item for item in range(500)]
                n_right += 1
            except mh.WorkerDied as error:
                blamed_on.append(error.signal)
    finally:
        is_over.set()
        attacker.join()
    assert set(blamed_on) <= {signal.SIGKILL}
    assert n_right > 0
    assert mh.map(square, range(50)) == [item * item for item in range(50)]


@pytest.mark.parametrize("when", [0, 20, 40])
def test_a_worker_dies_while_arguments_are_still_being_made(when):
    """Once: a task that is hit twice would be blamed."""

    def arguments():
        for item in range(60):
            # Slow enough for some to be sent before others are made.
            time.sleep(0.001)
            if item == when:
                for pid in workers():
                    kill(pid)
            yield item

    mh.map(abs, [-1, -2])
    assert mh.map(lambda item: item + 1, arguments()) == list(range(1, 61))


def test_a_worker_dies_amid_huge_results(either, tmp_path):
    size = 24 << 20
    marker = tmp_path / "once"

    def big(item):
        if item == 1 and not marker.exists():
            marker.touch()
            # The result of the first task is on its way by now.
            threading.Timer(0.02, os._exit, [1]).start()
            time.sleep(10)
        return bytes([item]) * size

    results = mh.map(big, range(3))
    assert [(len(result), result[:1], result[-1:]) for result in results] == [
        (size, bytes([item]), bytes([item])) for item in range(3)
    ]


def test_a_worker_dies_amid_a_huge_argument():
    def length(data, item):
        return len(data) + item

    data = bytes(24 << 20)
    mh.map(abs, [1])
    threading.Timer(0.03, lambda: [kill(pid) for pid in workers()]).start()
    assert mh.map(length, [data] * 3, range(3)) == [len(data) + item for item in range(3)]


# Workers that do not start


@pytest.fixture
def fresh_pool():
    mh.shutdown()
    yield
    mh.shutdown()


@pytest.mark.parametrize("face", FACES)
def test_without_an_interpreter_the_error_says_so(face, fresh_pool, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(mh.Error, match='cannot start a worker with "/no/such/python"') as caught:
            run_with(face, abs, [-1])
        assert "threads" in str(caught.value)
    assert run_with(face, abs, [-1]) == [1]


def test_without_a_name_of_an_interpreter_the_error_says_so(fresh_pool, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "")
        with pytest.raises(mh.Error, match=r"sys\.executable is empty"):
            mh.map(abs, [-1])
    assert mh.map(abs, [-1]) == [1]


def test_workers_that_end_at_once_are_reported_with_their_words(fresh_pool, monkeypatch, tmp_path, capfd):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho out of order >&2\nexit 41\n")
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(program))
        with pytest.raises(mh.Error, match="exited with code 41") as caught:
            mh.map(abs, [-1])
        assert "out of order" in str(caught.value)
    assert "out of order" not in capfd.readouterr().err, "the error tells it; three times more is noise"
    assert mh.map(abs, [-1]) == [1]


def test_workers_killed_as_they_start_are_not_started_for_ever(fresh_pool, monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(program))
        with pytest.raises(mh.Error, match="signal 9"):
            mh.map(abs, [-1])


def test_where_only_some_workers_start_they_do_the_work(fresh_pool, monkeypatch, tmp_path):
    """The interpreter goes away after the first worker: as in an upgrade, or at a limit of processes."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nmv "$0" "$0.old" || exit 1\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(program))
        with mh.config.set(num_workers=1):
            assert mh.map(abs, [-1]) == [1]
        with mh.config.set(num_workers=3):
            assert mh.map(abs, range(-30, 0)) == list(range(30, 0, -1))
            kill(workers()[0])
            with pytest.raises(mh.Error, match="cannot start a worker"):
                mh.map(abs, [-1])


def test_a_worker_without_the_package_says_what_is_missing(tmp_path):
    source = """
        import sys
        import manyhands as mh
        sys.path[:] = [entry for entry in sys.path if "site-packages" not in entry]
        try:
            mh.map(abs, [-1], scheduler="processes")
        except mh.Error as error:
            assert "No module named 'manyhands'" in str(error), error
            print("told")
    """
    outcome = run(tmp_path, source, env={**os.environ, "PYTHONPATH": ""})
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == "told\n", outcome


# The warm pool


def test_the_same_workers_serve_call_after_call():
    mh.map(abs, range(4))
    before = workers()
    for _ in range(5):
        assert set(mh.map(lambda _: os.getpid(), range(50))) <= set(before)
        mh.compute(mh.delayed(abs)(-1))
        mh.submit(abs, -1).result()
    assert workers() == before


def test_the_pool_grows_and_shrinks():
    def nap(_):
        time.sleep(0.05)
        return os.getpid()

    for n_workers in (1, 3, 2, 4, 1):
        pids = mh.map(nap, range(3 * n_workers), num_workers=n_workers)
        assert set(pids) <= set(workers()) or n_workers == 1
        until(lambda n=n_workers: len(workers()) == n, f"{n_workers} workers")


def test_idle_workers_end_and_come_back():
    with mh.config.set(idle_timeout=0.1):
        mh.map(abs, [-1])
        pids = workers()
        until(lambda: not workers(), "no worker is left")
        assert not any(map(is_alive, pids))
        assert mh.map(abs, [-1]) == [1]
    mh.map(abs, [-1])
    assert workers()


def test_shutdown_ends_the_workers_and_the_next_call_starts_new_ones():
    mh.map(abs, [-1])
    before = workers()
    slow = mh.submit(time.sleep, 60)
    mh.shutdown()
    until(lambda: not any(map(is_alive, before)), "the workers have ended")
    with pytest.raises(CancelledError):
        slow.result(PATIENCE_S)
    assert mh.map(abs, [-1]) == [1]
    assert not set(workers()) & set(before)
    mh.shutdown()
    mh.shutdown()


def test_libraries_are_held_back_as_the_number_of_workers_asks(monkeypatch):
    """In workers that were there before, and in those started since; what the person has set is left alone."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    config.refresh()
    monkeypatch.setattr(config._state, "n_cpus", 12)

    def limits(_):
        time.sleep(0.01)
        return os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]

    mh.shutdown()
    seen = {}
    for n_workers in (1, 3, 2, 4, 1):
        until(lambda n=n_workers: len({pid for pid, *_ in mh.map(limits, range(20), num_workers=n)}) == n, "all run")
        for pid, omp, mkl in mh.map(limits, range(20), num_workers=n_workers):
            assert (omp, mkl) == (str(12 // n_workers), "3")
            seen.setdefault(pid, set()).add(omp)
    assert max(map(len, seen.values())) > 1, "no worker has lived through a change"
    mh.shutdown()


def test_a_folder_that_workers_cannot_enter_fails_the_tasks_that_would_run_there(monkeypatch, capfd):
    assert mh.map(abs, [-1]) == [1]
    with monkeypatch.context() as patch:
        patch.setattr(_pools.os, "getcwd", lambda: "/no/such/folder")
        for face in FACES:
            with pytest.raises(FileNotFoundError, match="a worker process cannot enter .*/no/such/folder"):
                run_with(face, abs, [-1])
    assert mh.map(abs, [-1, -2]) == [1, 2]
    assert capfd.readouterr().err == ""


# What tasks may do to their worker


def test_what_a_function_carries_is_each_workers_own():
    """It stays with the worker for as long as the function stays what it is, and does not come back."""

    class Counter:
        n = 0

        def count(self, _):
            self.n += 1
            return self.n

    counter = Counter()
    with mh.config.set(num_workers=1):
        assert mh.map(counter.count, range(4)) == [1, 2, 3, 4]
        assert mh.map(counter.count, range(4)) == [5, 6, 7, 8]
    assert counter.n == 0
    counter.n = 10
    with mh.config.set(num_workers=1):
        assert mh.map(counter.count, range(2)) == [11, 12]


@pytest.mark.parametrize("code", [0, 4, "a message"])
def test_exits_of_tasks_are_raised_as_they_are(code):
    with pytest.raises(SystemExit) as caught:
        mh.map(lambda item: sys.exit(code) if item == 3 else item, range(10))
    assert caught.value.code == code
    assert mh.map(abs, [-1]) == [1]


@pytest.mark.parametrize("scheduler", ["processes", "fork", "threads"])
def test_tracebacks_name_the_line_of_the_program(scheduler, tmp_path):
    """Also of functions that are pickled with their code, and of those within them."""
    program = """
        import sys
        import manyhands as mh

        def outer(x):
            def inner(y):
                return 1 / y  # here

            return inner(x)

        mh.config.set(scheduler=sys.argv[1], num_workers=2)
        mh.map(outer, [1, 0])
    """
    outcome = run(tmp_path, program, scheduler)
    assert outcome.returncode == 1
    assert 'program.py", line 9, in outer' in outcome.stderr, outcome
    assert 'program.py", line 7, in inner\n    return 1 / y  # here' in outcome.stderr, outcome


def test_tasks_may_change_their_process(tmp_path):
    import contextlib
    import io

    here = os.getcwd()

    def change(item):
        os.chdir(tmp_path)
        os.environ["CHANGED"] = "yes"
        sys.path.insert(0, "/nowhere")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        with contextlib.redirect_stdout(io.StringIO()) as text:
            print("caught", end="")
        return text.getvalue() + str(item)

    def close(item):
        sys.stdout.close()
        sys.stderr = None
        return item

    assert mh.map(change, range(8)) == [f"caught{item}" for item in range(8)]
    assert mh.map(abs, range(8)) == list(range(8))
    assert os.getcwd() == here
    assert "CHANGED" not in os.environ
    assert mh.map(close, range(8)) == list(range(8))
    assert mh.map(abs, range(8)) == list(range(8))
    mh.shutdown()


def test_standard_input_is_empty_for_tasks():
    assert mh.map(lambda _: (sys.stdin.read(), os.read(0, 9)), range(4)) == [("", b"")] * 4


def test_tasks_may_start_programs_and_use_alarms():
    def call(item):
        import signal
        import subprocess

        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(item))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        text = subprocess.run(["sh", "-c", f"sleep 0.05; echo {item}"], capture_output=True, text=True, check=True)
        return text.stdout, seen

    assert mh.map(call, range(4)) == [(f"{item}\n", [item]) for item in range(4)]


@pytest.mark.parametrize("ending", ["returns", "raises", "exits", "os._exits"])
def test_a_task_may_fork_and_only_the_original_answers(ending, tmp_path, capfd):
    log = tmp_path / "log"

    def fork(item):
        pid = os.fork()
        if pid == 0:
            append(log, str(item))
            if ending == "raises":
                raise RuntimeError("in the child")
            if ending == "exits":
                sys.exit(0)
            if ending == "os._exits":
                os._exit(0)
            return "child"
        os.waitpid(pid, 0)
        return "original"

    before = mh.map(lambda _: os.getpid(), range(2)) and workers()
    assert mh.map(fork, range(6)) == ["original"] * 6
    assert sorted(appended(log)) == [str(item) for item in range(6)]
    assert workers() == before
    assert ("RuntimeError: in the child" in capfd.readouterr().err) == (ending == "raises")


def test_tasks_may_use_multiprocessing():
    def spread(item):
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-item, item])

    assert mh.map(spread, range(3)) == [[item, item] for item in range(3)]


# Forks of the parent


FORKS = """
    import os, sys, time
    import manyhands as mh
    from manyhands import _pools, config

    mh.config.set(scheduler=sys.argv[1], num_workers=2)
    assert mh.map(abs, range(-9, 0)) == list(range(9, 0, -1))
    stream = mh.stream(abs, range(1000))
    assert next(stream) == 0
    ended = mh.submit(abs, -3)
    assert ended.result() == 3
    running = mh.submit(time.sleep, 0.5)
    before = _pools._processes.worker_pids() if _pools._processes else []
    pid = os.fork()
    if pid == 0:
        if sys.argv[2] == "use":
            assert mh.map(abs, [-3, -4]) == [3, 4]
            assert mh.compute(mh.delayed(abs)(-5)) == (5,)
            assert mh.submit(abs, -6).result() == 6
            after = _pools._processes.worker_pids() if _pools._processes else []
            assert not set(before) & set(after)
        if sys.argv[2] == "touch":
            # What belongs to the parent has no result here, and says so rather than wait for ever.
            for touch in (running.result, lambda: list(stream)):
                try:
                    touch()
                except BaseException as error:
                    assert type(error).__name__ == "CancelledError", error
            stream.close()
            running.cancel()
        if sys.argv[2] == "drop":
            del stream, running, ended
        if sys.argv[2] == "shutdown":
            mh.shutdown()
        if sys.argv[2] == "os._exit":
            os._exit(7)
        sys.exit(7)
    assert os.waitpid(pid, 0)[1] == 7 << 8
    assert list(stream) == list(range(1, 1000))
    assert running.result() is None
    assert mh.map(abs, [-1, -2]) == [1, 2]
    if before:
        assert _pools._processes.worker_pids() == before
    print("right")
"""


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
@pytest.mark.parametrize("child", ["use", "touch", "drop", "shutdown", "nothing", "os._exit"])
def test_a_forked_child_has_pools_of_its_own(scheduler, child, tmp_path):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    check(run(tmp_path, FORKS, scheduler, child, env=environment), "right\n")


@pytest.mark.parametrize("scheduler", ["processes", "threads", "synchronous"])
def test_multiprocessing_with_fork_may_follow(scheduler, tmp_path):
    source = """
        import multiprocessing, sys
        import manyhands as mh

        mh.config.set(scheduler=sys.argv[1], num_workers=2)

        def both(item):
            return mh.map(abs, [-item, item])

        mh.map(abs, [-1])
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(both, range(4)) == [[item, item] for item in range(4)]
        assert mh.map(abs, [-1]) == [1]
        print("right")
    """
    environment = {**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    check(run(tmp_path, source, scheduler, env=environment), "right\n")


def test_a_parent_without_standard_streams_keeps_its_connections_clean(tmp_path):
    """Started with all three closed, the first sockets would have their numbers."""
    source = """
        import os, sys
        for fd in (0, 1, 2):
            os.close(fd)
        import manyhands as mh

        def noisy(item):
            os.write(1, b"out")
            os.write(2, b"err")
            return item

        assert mh.map(noisy, range(200), num_workers=2) == list(range(200))
        open(sys.argv[1], "w").write("right")
    """
    result = tmp_path / "result"
    outcome = run(tmp_path, source, result)
    assert outcome.returncode == 0, outcome
    assert result.read_text() == "right"


def test_many_pools_one_after_the_other_leave_no_children():
    mh.shutdown()
    before = children(os.getpid())
    for _ in range(5):
        mh.map(abs, [-1])
        mh.shutdown()
    assert children(os.getpid()) <= before
    assert subprocess.run(["true"], check=True).returncode == 0
