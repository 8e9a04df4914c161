"""Lines that tasks in threads print, told live: each in one piece; and `print` as everybody knows it."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import io
import pickle
import sys
import threading
import time
from unittest import mock

import pytest
from scripts import PATIENCE_S, check, run, until

import manyhands as mh


@pytest.fixture(autouse=True)
def two_threads():
    with mh.config.set(scheduler="threads", num_workers=2):
        yield


class Heard(io.StringIO):
    """Gives other threads a turn whenever it is written to, and knows each piece that it was given."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def write(self, text):
        self.pieces.append(text)
        time.sleep(0.0005)
        return super().write(text)


class Slow:
    """What other threads have a turn in the middle of, on its way into a line."""

    def __init__(self, x):
        self.x = x

    def __str__(self):
        time.sleep(0.001)
        return str(self.x)


def say(x):
    print("line", Slow(x), "of", Slow(x))
    print("error", x, sep=" is ", end="!\n", file=sys.stderr, flush=True)


def test_lines_come_in_one_piece():
    out, error = Heard(), Heard()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        mh.map(say, range(40), chunksize=1)
    assert sorted(out.pieces) == sorted(f"line {x} of {x}\n" for x in range(40))
    assert sorted(error.pieces) == sorted(f"error is {x}!\n" for x in range(40))


@pytest.mark.parametrize("how", ["map", "stream", "compute", "submit", "executor", "futures", "seeded"])
def test_lines_are_whole_however_the_tasks_are_made(how):
    out = Heard()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        if how == "map":
            mh.map(say, range(20))
        elif how == "seeded":
            mh.map(say, range(20), seed=1)
        elif how == "stream":
            list(mh.stream(say, range(20)))
        elif how == "compute":
            mh.compute([mh.delayed(say)(x) for x in range(20)])
        elif how == "submit":
            for future in [mh.submit(say, x) for x in range(20)]:
                future.result()
        elif how == "executor":
            with mh.Executor() as executor:
                list(executor.map(say, range(20)))
        else:
            from manyhands.distributed import Client

            with Client(processes=False, n_workers=2) as client:
                client.gather(client.map(say, range(20)))
    assert sorted(out.pieces) == sorted(f"line {x} of {x}\n" for x in range(20))


@pytest.mark.parametrize("seed", [None, 1])
def test_lines_are_whole_where_print_itself_is_the_function(tmp_path, seed):
    """Taken before there were any threads."""
    source = f"""
    import io, sys, time
    function = print
    import manyhands as mh

    class Heard(io.StringIO):
        def write(self, text):
            pieces.append(text)
            time.sleep(0.0005)

    pieces = []
    mh.config.set(scheduler="threads", num_workers=2, seed={seed})
    sys.stdout = Heard()
    mh.map(function, range(20), chunksize=1)
    list(mh.stream(function, range(20, 30)))
    mh.compute([mh.delayed(function)(x) for x in range(30, 40)])
    mh.submit(function, 40).result()
    sys.stdout = sys.__stdout__
    assert sorted(pieces) == sorted(f"{{x}}\\n" for x in range(41)), pieces
    """
    check(run(tmp_path, source), "")


def test_lines_on_the_programs_own_stream_are_whole(tmp_path):
    source = """
    import sys, time
    import manyhands as mh

    class Slow:
        def __str__(self):
            time.sleep(0.001)
            return "slow"

    def say(x):
        print("line", Slow(), x, Slow())

    mh.map(say, range(60), scheduler="threads", num_workers=3, chunksize=1)
    """
    outcome = run(tmp_path, source)
    assert outcome.returncode == 0, outcome
    assert sorted(outcome.stdout.splitlines()) == sorted(f"line slow {x} slow" for x in range(60))


def test_lines_of_a_call_in_order_and_one_told_live_are_whole():
    out = Heard()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()), mh.config.set(num_workers=4):
        live = [mh.submit(say, x) for x in range(30)]
        mh.map(say, range(100, 110), relay="ordered")
        for future in live:
            future.result()
    lines = out.getvalue().splitlines()
    assert sorted(lines) == sorted(f"line {x} of {x}" for x in [*range(30), *range(100, 110)])
    in_order = [line for line in lines if int(line.split()[1]) >= 100]
    assert in_order == [f"line {x} of {x}" for x in range(100, 110)]


def test_what_goes_to_either_stream_in_order_goes_there_whatever_they_stood_for_before(capfd):
    with contextlib.redirect_stdout(sys.stderr):
        mh.map(print, ["before"], relay="ordered")
    mh.map(lambda x: print(x, file=sys.stderr), ["after"], relay="ordered")
    assert capfd.readouterr() == ("", "before\nafter\n")


# print is what it was

ARGUMENTS = [
    ((), {}),
    ((1, "two", None), {}),
    ((1, 2), {"sep": ""}),
    ((1, 2), {"sep": None, "end": None}),
    ((1,), {"end": ""}),
    (("\ud800é",), {}),
    ((1, 2), {"sep": "\n", "end": "\n\n", "flush": True}),
    ((1,), {"file": None}),
]
MISTAKES = [
    ((1,), {"sep": 1}),
    ((1,), {"end": b""}),
    ((1,), {"ende": ""}),
    ((1,), {"file": 3}),
]


def printed(args, kwargs):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            returned = print(*args, **kwargs)
        except Exception as error:
            return type(error), str(error).partition("\n")[0], out.getvalue()
    return returned, out.getvalue()


@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS + MISTAKES)
def test_in_a_task_it_prints_and_refuses_what_it_does_elsewhere(args, kwargs):
    assert mh.submit(printed, args, kwargs).result() == printed(args, kwargs)


def test_without_a_stream_it_prints_nowhere_or_says_that_there_is_none():
    def nowhere():
        before, sys.stdout = sys.stdout, None
        try:
            print("nowhere")
            del sys.stdout
            with pytest.raises(RuntimeError, match=r"lost sys\.stdout"):
                print("lost")
        finally:
            sys.stdout = before

    mh.submit(nowhere).result()


def test_what_a_value_or_a_stream_raises_is_raised():
    class Bad:
        def __str__(self):
            raise LookupError("no text")

    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(28, "no space left")

    with pytest.raises(LookupError, match="no text"):
        mh.submit(print, "a", Bad()).result()
    with contextlib.redirect_stdout(Full()), pytest.raises(OSError, match="no space left"):
        mh.submit(print, "a").result()


def test_it_can_be_replaced_and_put_back():
    mh.map(str, range(3))
    installed = builtins.print
    with mock.patch("builtins.print") as replaced:
        mh.map(lambda x: print(x), range(3))
        assert replaced.call_count == 3
        assert builtins.print is replaced
    assert builtins.print is installed
    out = Heard()
    with contextlib.redirect_stdout(out):
        mh.map(lambda x: print("a", x), range(3))
    assert sorted(out.pieces) == [f"a {x}\n" for x in range(3)]


def test_a_print_of_the_programs_own_stays_that(tmp_path):
    """It was there before the first thread."""
    source = """
    import builtins
    import manyhands as mh

    seen = []
    builtins.print = lambda *args: seen.append(args)
    mh.map(print, range(3), scheduler="threads", num_workers=2)
    assert sorted(seen) == [(0,), (1,), (2,)], seen
    """
    check(run(tmp_path, source), "")


def test_it_is_a_builtin_like_any_other():
    mh.map(str, range(3))
    assert inspect.isbuiltin(print)
    assert (print.__module__, print.__name__, print.__qualname__) == ("builtins", "print", "print")
    assert pickle.loads(pickle.dumps(print)) is print
    assert print.__doc__
    assert [*inspect.signature(print).parameters] == ["args", "sep", "end", "file", "flush"]


def test_it_is_sent_to_workers_by_name(capfd):
    mh.map(str, range(3))
    mh.map(print, ["there"], scheduler="processes")
    mh.compute(mh.delayed(print)("there, too"), scheduler="processes")
    assert capfd.readouterr().out == "there\nthere, too\n"


def test_what_others_print_is_not_touched():
    """In pieces, as ever: who prints in its own thread may look at each."""
    out = Heard()
    is_begun, may_end = threading.Event(), threading.Event()

    def wait(_):
        is_begun.set()
        assert may_end.wait(PATIENCE_S)

    with contextlib.redirect_stdout(out):
        future = mh.submit(wait, 0)
        assert is_begun.wait(PATIENCE_S)
        print("piece", "by")
        assert out.pieces == ["piece", " ", "by", "\n"]
        may_end.set()
        future.result()


def test_parts_of_lines_appear_at_once():
    out = Heard()
    may_end = threading.Event()

    def show(_):
        print("20 %", end="")
        assert may_end.wait(PATIENCE_S)

    with contextlib.redirect_stdout(out):
        future = mh.submit(show, 0)
        until(lambda: out.pieces == ["20 %"], "it is shown")
        may_end.set()
        future.result()


def test_streams_change_under_a_thread_that_is_printing(tmp_path):
    """The interpreter's own `print` does not hold on to the stream that it writes to."""
    source = """
    import sys, threading, time
    import manyhands as mh

    class Slow:
        def __str__(self):
            time.sleep(0.02)
            return "slow"

    class Bare:
        __slots__ = ()
        def write(self, text): sys.__stdout__.write(text)
        def flush(self): pass

    mh.config.set(scheduler="threads", num_workers=2)
    for stream in (sys.stdout, Bare()):
        sys.stdout = stream
        for relay in (True, "ordered"):
            mh.config.set(relay=relay)
            is_over = threading.Event()
            def call():
                while not is_over.is_set():
                    mh.map(str, range(3))
            thread = threading.Thread(target=call)
            thread.start()
            for _ in range(20):
                print("a", Slow(), "b")
            is_over.set()
            thread.join()
    """
    check(run(tmp_path, source), "a slow b\n" * 80)
