"""Lines that tasks in threads write, told live: whole, in whatever pieces they come; and what stands for streams."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time

import pytest
from scripts import PATIENCE_S, check, run, until

import manyhands as mh
from manyhands import _native, _relay


@pytest.fixture(autouse=True)
def two_threads():
    with mh.config.set(scheduler="threads", num_workers=2):
        yield
    # Threads take the proxies off when they have no more work, a moment after their last task.
    until(lambda: not _native.has_proxies(), "no thread is at work")


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
    print("line", Slow(x), "of", Slow(x), sep=" ")
    sys.stderr.write(f"error {x} ")
    sys.stderr.writelines(["goes ", "on\n"])


def test_lines_come_in_one_piece():
    out, error = Heard(), Heard()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        mh.map(say, range(40), chunksize=1)
    assert sorted(out.pieces) == sorted(f"line {x} of {x}\n" for x in range(40))
    assert sorted(error.pieces) == sorted(f"error {x} goes on\n" for x in range(40))


@pytest.mark.parametrize("how", ["map", "stream", "compute", "submit", "executor", "futures"])
def test_lines_are_whole_however_the_tasks_are_made(how):
    out = Heard()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        if how == "map":
            mh.map(say, range(20))
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
    print("after", sys.stdout is sys.__stdout__)
    """
    outcome = run(tmp_path, source)
    lines = outcome.stdout.splitlines()
    assert outcome.returncode == 0, outcome
    assert sorted(lines[:-1]) == sorted(f"line slow {x} slow" for x in range(60))
    assert lines[-1].startswith("after"), lines


def test_the_beginning_of_a_line_appears_when_its_task_ends():
    out = Heard()
    with contextlib.redirect_stdout(out):
        mh.map(lambda x: print("part", x, end=";"), range(10), chunksize=1)
        assert sorted(out.pieces) == sorted(f"part {x};" for x in range(10))
        with pytest.raises(ZeroDivisionError):
            mh.map(lambda x: print("before", end="") or 1 / x, [0])
    assert out.pieces[-1] == "before"


def test_what_is_flushed_appears_at_once_and_so_does_a_bar():
    out = Heard()
    may_end = threading.Event()

    def show(_):
        print("20 %", end="", flush=True)
        sys.stdout.write("\r40 %")
        assert may_end.wait(PATIENCE_S)

    with contextlib.redirect_stdout(out):
        future = mh.submit(show, 0)
        until(lambda: out.pieces == ["20 %", "\r40 %"], "both are shown")
        may_end.set()
        future.result()


def test_a_line_without_end_is_not_held_for_ever():
    out = Heard()
    with contextlib.redirect_stdout(out):
        mh.map(lambda _: [sys.stdout.write("x" * 1000) for _ in range(200)], [0])
    assert out.getvalue() == "x" * 200_000
    assert 3 <= len(out.pieces) < 10


def test_text_that_is_no_utf8_and_bytes_arrive_as_they_are(tmp_path):
    class Wrapped(io.TextIOWrapper):
        """Not the program's own, but with bytes below it."""

    below = io.BytesIO()
    out = Wrapped(below, encoding="utf-8", errors="surrogateescape")

    def write(_):
        print("odd \udcff", end="!")
        sys.stdout.flush()
        sys.stdout.buffer.write(b"\x00\xfe\n")
        return sys.stdout.encoding

    with contextlib.redirect_stdout(out):
        assert mh.map(write, [0]) == ["utf-8"]
        out.flush()
    assert below.getvalue() == b"odd \xff!\x00\xfe\n"


def test_what_is_wrong_with_a_stream_is_the_tasks_error():
    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(28, "no space left")

    with contextlib.redirect_stdout(Full()):
        with pytest.raises(OSError, match="no space left"):
            mh.map(print, [1])
        with pytest.raises(TypeError, match="must be str, not bytes"):
            mh.map(lambda x: sys.stdout.write(x), [b"bytes"])


# The proxies


def test_other_threads_of_the_program_write_as_ever():
    out = Heard()
    is_begun, may_end = threading.Event(), threading.Event()

    def wait(_):
        is_begun.set()
        assert may_end.wait(PATIENCE_S)

    with contextlib.redirect_stdout(out):
        future = mh.submit(wait, 0)
        assert is_begun.wait(PATIENCE_S)
        assert _relay.bare(sys.stdout) is out
        print("piece", "by", end="")
        assert out.pieces == ["piece", " ", "by", ""]
        may_end.set()
        future.result()


def test_the_streams_are_what_they_were_once_threads_have_no_more_work():
    before = sys.stdout, sys.stderr
    for _ in range(20):
        mh.map(str, range(50))
        mh.submit(str, 1).result()
    until(lambda: not _native.has_proxies(), "no thread is at work")
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("order", ["begins first", "ends first"])
def test_a_redirection_across_the_end_of_all_work_leaves_nothing_behind(order):
    """A block puts back what it has found, which may be a proxy that has been taken off meanwhile."""
    before = sys.stdout
    may_end = threading.Event()
    out = io.StringIO()
    with contextlib.ExitStack() as stack:
        if order == "begins first":
            stack.enter_context(contextlib.redirect_stdout(out))
        future = mh.submit(may_end.wait, PATIENCE_S)
        until(_native.has_proxies, "a thread is at work")
        if order == "ends first":
            stack.enter_context(contextlib.redirect_stdout(out))
            may_end.set()
            future.result()
            until(lambda: not _native.has_proxies(), "no thread is at work")
            print("redirected")
    may_end.set()
    future.result()
    until(lambda: not _native.has_proxies(), "no thread is at work")
    print("here", end="")  # by a proxy, as the case may be
    assert sys.stdout is before
    assert out.getvalue() == ("redirected\n" if order == "ends first" else "")


def test_a_call_in_order_beside_one_told_live():
    """The one ends first: the other's lines stay whole."""
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


def test_a_forked_child_has_the_streams_themselves():
    is_begun, may_end = threading.Event(), threading.Event()

    def wait(_):
        is_begun.set()
        assert may_end.wait(PATIENCE_S)

    future = mh.submit(wait, 0)
    assert is_begun.wait(PATIENCE_S)
    pid = os.fork()
    if pid == 0:
        is_bare = _relay.bare(sys.stdout) is sys.stdout and not _native.has_proxies()
        os._exit(0 if is_bare else 1)
    may_end.set()
    future.result()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_tasks_without_output_can_have_no_streams_at_all(tmp_path):
    source = """
    import sys
    import manyhands as mh

    sys.stdout = sys.stderr = None
    mh.map(print, range(10), scheduler="threads", num_workers=2)
    """
    check(run(tmp_path, source), "")
