"""Reports of workers that died under a task: real signals, real crashes, on processes and on fork."""

import ctypes
import faulthandler
import os
import signal
import sys

import pytest
from faces import FACES, run_with
from scripts import is_alive

import manyhands as mh
from manyhands import _deaths, errors


@pytest.fixture(params=["processes", "fork"])
def scheduler(request):
    with mh.config.set(scheduler=request.param, num_workers=2):
        yield request.param


def overflow():
    """Exhaust the stack in compiled code: the C library's parser calls itself for each parenthesis."""
    compiled = ctypes.create_string_buffer(4096)
    ctypes.CDLL(None).regcomp(compiled, b"(" * 5_000_000, 1)


# How a task can end its worker; the signal or exit code; whether a stack can be told.
WAYS = {
    "kill": (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL", False),
    "segfault": (lambda: ctypes.string_at(0), "SIGSEGV", True),
    "abort": (lambda: os.abort(), "SIGABRT", True),
    "overflow": (overflow, "SIGSEGV", True),
    "exit": (lambda: os._exit(3), 3, False),
    "C exit": (lambda: ctypes.CDLL(None).exit(4), 4, False),
    "terminate": (lambda: os.kill(os.getpid(), signal.SIGTERM), "SIGTERM", False),
}


@pytest.mark.parametrize(
    "face, way", [*[("map", way) for way in WAYS], *[(face, "segfault") for face in FACES if face != "map"]]
)
def test_a_death_is_told_with_all_that_is_known(face, way, scheduler, capfd):
    die, how, has_stack = WAYS[way]

    def fit(fold):
        if len(fold) > 50_000:
            print("before the end", flush=True)
            die()
        return len(fold)

    items = ["a", "bb", "c" * 100_000, "dd"]
    with pytest.raises(mh.WorkerDied) as caught:
        run_with(face, fit, items)
    error, text = caught.value, str(caught.value)
    assert type(error) is mh.WorkerDied
    assert error.function.endswith("fit")
    assert (error.file, error.line) == (fit.__code__.co_filename, fit.__code__.co_firstlineno)
    assert list(error.argument_sizes) == ["fold"]
    assert 100_000 <= error.argument_sizes["fold"] < 110_000
    assert error.peak_memory > 1 << 20
    assert (error.signal_name if error.exitcode is None else error.exitcode) == how
    assert error.was_running
    assert "before the end" in error.output
    assert len({error.worker_pid, error.earlier_pid, None, os.getpid()}) == 4
    assert not is_alive(error.worker_pid)
    assert not is_alive(error.earlier_pid)
    told = [str(how), str(error.worker_pid), str(error.earlier_pid), "fold 97.7 KiB", "test_deaths.py", "twice"]
    for part in [*told, "Likely cause: ", "What to do: ", "Memory of the worker: "]:
        assert part in text
    if has_stack:
        frames = [line for line in error.stack.splitlines() if line.startswith("  File")]
        assert " in fit" in frames[-1], error.stack
        assert "Where it was:" in text
    else:
        assert error.stack == ""
    written = capfd.readouterr()
    assert "before the end" in written.out
    assert "Fatal Python error" not in written.err
    assert mh.map(abs, [-1, -2]) == [1, 2]


def test_sizes_of_other_tasks_results_are_told(scheduler):
    def load(n_bytes):
        return bytes(n_bytes)

    def fit(data, fold):
        os._exit(1)

    data = mh.delayed(load)(300_000)
    with pytest.raises(mh.WorkerDied) as caught:
        mh.compute(mh.delayed(fit)(data, fold=3))
    sizes = caught.value.argument_sizes
    assert 300_000 <= sizes["data"] < 310_000
    assert sizes["fold"] == sys.getsizeof(3)
    assert "fit-" in caught.value.key


def test_a_task_that_is_killed_for_a_neighbour_s_sake_is_not_blamed(scheduler, tmp_path):
    """One task crashes the first time; what else its worker held is done again, and all results are right."""

    def fit(fold):
        if fold == 7 and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            ctypes.string_at(0)
        return fold * fold

    for face in FACES:
        assert run_with(face, fit, range(20)) == [fold * fold for fold in range(20)]
        (tmp_path / "once").unlink()


def test_a_task_may_use_faulthandler_itself(scheduler, tmp_path):
    def to_file(path):
        with open(path, "w") as file:
            faulthandler.enable(file)
            ctypes.string_at(0)

    def to_stderr(_):
        print("before the end", file=sys.stderr, flush=True)
        faulthandler.enable()
        ctypes.string_at(0)

    path = tmp_path / "stacks"
    with pytest.raises(mh.WorkerDied) as caught:
        mh.map(to_file, [path])
    assert "in to_file" in path.read_text()
    assert (caught.value.signal_name, caught.value.stack) == ("SIGSEGV", "")
    with pytest.raises(mh.WorkerDied) as caught:
        mh.map(to_stderr, [1])
    assert " in to_stderr" in caught.value.stack.splitlines()[-1]
    assert caught.value.output == "before the end"

    # And what is asked for by hand goes where it is asked to go.
    def dump(path):
        with open(path, "w") as file:
            faulthandler.dump_traceback(file)
        return path.read_text()

    (dumped,) = mh.map(dump, [path])
    assert "in dump" in dumped


@pytest.mark.skipif(sys.version_info < (3, 14), reason="the C stack is there from Python 3.14 on")
def test_the_stack_of_compiled_code_is_told(scheduler):
    with pytest.raises(mh.WorkerDied) as caught:
        mh.map(ctypes.string_at, [0])
    assert "C stack trace" in caught.value.stack


# Forked workers live for one call, and are never idle.
@pytest.mark.parametrize("scheduler", ["processes"], indirect=True)
@pytest.mark.usefixtures("scheduler")
def test_a_worker_that_dies_without_a_task_is_nobody_s_death():
    mh.map(abs, range(4))
    from manyhands import _pools

    for pid in _pools._processes.worker_pids():
        os.kill(pid, signal.SIGSEGV)
    assert mh.map(abs, range(-4, 0)) == [4, 3, 2, 1]


# The parts


def test_functions_of_all_kinds_have_a_place():
    from functools import partial

    class Model:
        def __call__(self, x):
            return x

        def fit(self, x):
            return x

    for function, name, code in [
        (partial(partial(run_with, "map"), abs), "run_with", run_with.__code__),
        (Model().fit, "Model.fit", Model.fit.__code__),
        (Model(), "Model", Model.__call__.__code__),
        (overflow, "overflow", overflow.__code__),
    ]:
        found = _deaths.place_of(function)
        assert found[0].endswith(name)
        assert found[1:] == (code.co_filename, code.co_firstlineno)
    assert _deaths.place_of(len) == ("len", None, None)
    assert _deaths.place_of(int)[1:] == (None, None)


def test_sizes_count_what_arguments_hold():
    class Data:
        def __init__(self, inside):
            self.inside = inside

    class Strange:
        @property
        def nbytes(self):
            raise ValueError("no")

    def call(a, *rest, named=0, **more):
        pass

    block = bytes(10_000)
    sizes = _deaths.argument_sizes(
        call, ([block, block], Data({"x": Data(block)}), Strange()), {"named": "x", "other": _deaths.Result(77)}
    )
    # What is there twice is one object, and takes its memory once.
    assert 10_000 < sizes["a"] < 11_000
    assert 10_000 < sizes["*rest[0]"] < 11_000
    assert "*rest[1]" not in sizes
    assert sizes["other"] == 77
    loop: list = []
    loop.append(loop)
    assert 0 < _deaths.argument_sizes(abs, (loop,), {})["x"] < 1000
    assert _deaths.argument_sizes(abs, ([float(n) for n in range(100_000)],), {})["x"] > 2_000_000
    assert _deaths.argument_sizes(print, (), {}) == {}


REPORT = """\
2 frames of thread 0x00000000000000aa
Fatal Python error: Aborted

Thread 0x00000000000000bb (most recent call first):
  File "a.py", line 1 in other

Fatal Python error: Segmentation fault

Thread 0x00000000000000bb (most recent call first):
  File "a.py", line 1 in other

Current thread 0x00000000000000aa (most recent call first):
  File "a.py", line 2 in inner
  File "a.py", line 3 in fit
  File "w.py", line 4 in main
  File "<string>", line 5 in <module>

Extension modules: numpy (total: 1)
"""


def test_of_a_report_the_last_stacks_are_told_without_the_engine_s_frames():
    stack = _deaths.stack_of(REPORT)
    assert stack.splitlines() == [
        "Thread 0x00000000000000bb (most recent call first):",
        '  File "a.py", line 1 in other',
        "Current thread 0x00000000000000aa (most recent call first):",
        '  File "a.py", line 2 in inner',
        '  File "a.py", line 3 in fit',
    ]
    cut = REPORT.replace('  File "<string>", line 5 in <module>', "  ...")
    assert _deaths.stack_of(cut).endswith("  ...")
    assert _deaths.stack_of("2 frames of thread 0x0\n") == ""
    assert _deaths.stack_of("") == ""
    assert _deaths.stack_of("\0 nonsense") == ""


def test_each_end_has_a_cause_and_advice():
    def text(**facts):
        known = {"pid": 1, "exitcode": None, "signal": None, "output": "", "was_running": True, "peak_memory": None}
        known.update(memory_seen=0, report="", is_oom_kill=False, memory_there=None, stop=None, before=None)
        return str(_deaths.error_for("f()", None, None, {**known, **facts}))

    assert "os._exit" in text(exitcode=1)
    assert "compiled code crashed" in text(signal=signal.SIGSEGV)
    assert "gave up" in text(signal=signal.SIGABRT)
    assert "batch system" in text(signal=signal.SIGXCPU)
    assert "memory runs out, or somebody" in text(signal=signal.SIGKILL)
    high = text(signal=signal.SIGKILL, peak_memory=7 << 30, memory_there=8 << 30)
    assert "most likely the system's out-of-memory killer" in high
    assert "7 GiB of 8 GiB" in high
    assert "most likely" not in text(signal=signal.SIGKILL, peak_memory=1 << 30, memory_there=8 << 30)
    assert "counted such a kill" in text(signal=signal.SIGKILL, is_oom_kill=True)
    assert "before it had reported" in text(exitcode=1, was_running=False)
    before = {"pid": 17, "exitcode": None, "signal": 9, "stop": None}
    assert "ended worker 17: killed by SIGKILL." in text(exitcode=1, before=before)


def test_a_worker_out_of_memory_is_both_errors_and_survives_pickling():
    import pickle

    error = errors.WorkerOutOfMemory("fit(1)", "k", 4, None, 9, "out", retried=True)
    error.memory, error.memory_limit, error.cause = 5 << 30, 4 << 30, "memory"
    assert isinstance(error, MemoryError)
    assert isinstance(error, mh.WorkerDied)
    from concurrent.futures.process import BrokenProcessPool

    from manyhands import _executor_errors

    of_executor = _executor_errors.worker_died(error)
    assert isinstance(of_executor, errors.WorkerOutOfMemory)
    assert isinstance(of_executor, BrokenProcessPool)
    assert str(of_executor) == str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.WorkerOutOfMemory
    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert "stopped for the memory it took" in str(copy)
    assert "worker_memory_limit" in str(copy)
