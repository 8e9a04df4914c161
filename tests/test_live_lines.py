"""Lines that tasks in threads write, told live: whole, in whatever pieces they come; and streams as they were."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import pickle
import sys
import threading
import time
import weakref

import pytest
from scripts import PATIENCE_S, check, run, until

import manyhands as mh


@pytest.fixture(autouse=True)
def two_threads():
    with mh.config.set(scheduler="threads", num_workers=2):
        yield
    # Threads leave the streams when they have no more work, a moment after their last task.
    until(lambda: not is_in_use(sys.stdout) and not is_in_use(sys.stderr), "no thread is at work")


def is_in_use(stream):
    """Whether threads at work have put something into a stream."""
    return not {"write", "flush"}.isdisjoint(getattr(stream, "__dict__", {}))


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
    with contextlib.redirect_stdout(io.StringIO()):
        with pytest.raises(TypeError, match="bytes"):
            mh.map(lambda x: sys.stdout.write(x), [b"bytes"])


# Order


def tell(x):
    print("inner", x)


def in_order():
    """What others write comes where this waits for them."""
    print("a", end=" ")
    mh.map(tell, [0], scheduler="processes")
    print("b", end=" ")
    with mh.Executor(1, scheduler="processes") as executor:
        list(executor.map(tell, [1]))
    print("c", end=" ")
    mh.submit(tell, 2).result()
    print("d", end=" ")
    mh.map(tell, [3, 4], relay="ordered")
    print("e", end=" ")
    print("f", end=" ", file=sys.stderr)
    sys.stderr.flush()
    print("g")


def test_what_comes_first_stands_first(capfd):
    in_order()
    sys.stdout.flush()
    plain = capfd.readouterr()
    mh.submit(in_order).result()
    assert capfd.readouterr() == plain


def test_what_tasks_have_begun_appears_when_the_program_ends_without_them(tmp_path):
    source = """
    import threading
    import manyhands as mh

    has_begun = [threading.Event() for _ in range(2)]

    def stay(x):
        print("part", x, end=";")
        has_begun[x].set()
        threading.Event().wait()

    mh.config.set(scheduler="threads", num_workers=2)
    futures = [mh.submit(stay, x) for x in range(2)]
    for event in has_begun:
        event.wait()
    """
    outcome = run(tmp_path, source)
    assert outcome.returncode == 0, outcome
    assert sorted(outcome.stdout.split(";")) == ["", "part 0", "part 1"], outcome


@pytest.mark.parametrize("kind", [io.StringIO, lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii")])
def test_a_task_may_look_at_what_it_has_written_where_it_has_put_the_stream_itself(kind):
    def look():
        out = kind()
        with contextlib.redirect_stdout(out):
            mh.map(tell, [0])  # others begin to write there
            print("part", end="")
            out.flush()
            text = out.getvalue() if isinstance(out, io.StringIO) else out.buffer.getvalue().decode()
            print("more", end="")
        rest = out.getvalue() if isinstance(out, io.StringIO) else None
        out.close()
        return text, rest

    text, rest = mh.submit(look).result()
    assert text == "inner 0\npart"
    assert rest in (None, "inner 0\npartmore")


def test_what_cannot_be_encoded_is_an_error_where_it_is_written():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    def write():
        try:
            sys.stdout.write("é")
        except UnicodeEncodeError:
            return "refused"

    with contextlib.redirect_stdout(out):
        assert mh.submit(write).result() == "refused"


def test_one_bad_stream_keeps_nothing_of_the_other():
    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(28, "no space left")

    def write(x):
        sys.stdout.write(f"out {x}")
        sys.stderr.write(f"error {x}")

    error = Heard()
    with contextlib.redirect_stdout(Full()), contextlib.redirect_stderr(error):
        failures = mh.map(write, range(6), on_error="return")
    assert all(isinstance(failure, OSError) for failure in failures)
    assert sorted(error.pieces) == [f"error {x}" for x in range(6)]


# The streams


def test_streams_are_the_programs_own_objects_while_threads_work():
    before = sys.stdout, sys.stderr, sys.stdout.write
    may_end = threading.Event()
    future = mh.submit(may_end.wait, PATIENCE_S)
    until(lambda: is_in_use(sys.stdout), "a thread is at work")
    try:
        assert (sys.stdout, sys.stderr) == before[:2]
        assert isinstance(sys.stdout, io.TextIOBase)
    finally:
        may_end.set()
        future.result()
    until(lambda: not is_in_use(sys.stdout), "no thread is at work")
    assert (sys.stdout, sys.stderr, sys.stdout.write) == before


def test_the_standard_stream_can_be_sent_to_workers_while_threads_work(tmp_path):
    source = """
    import sys, threading
    import manyhands as mh

    def task(x):
        return mh.map(lambda x, out=sys.stdout: out is sys.stdout, [0], scheduler="processes")

    print(mh.map(task, [0], scheduler="threads"))
    """
    check(run(tmp_path, source), "[[True]]\n")


def test_other_threads_of_the_program_write_as_ever():
    out = Heard()
    is_begun, may_end = threading.Event(), threading.Event()

    def wait(_):
        is_begun.set()
        assert may_end.wait(PATIENCE_S)

    with contextlib.redirect_stdout(out):
        future = mh.submit(wait, 0)
        assert is_begun.wait(PATIENCE_S)
        assert is_in_use(out)
        print("piece", "by", end="")
        assert out.pieces == ["piece", " ", "by", ""]
        may_end.set()
        future.result()


def test_a_redirected_stream_is_left_as_it_was():
    out = io.StringIO()
    for _ in range(20):
        with contextlib.redirect_stdout(out):
            mh.map(print, range(5))
        mh.submit(str, 1).result()
    until(lambda out=out: not is_in_use(out), "no thread is at work")
    assert sorted(out.getvalue().split()) == sorted("01234" * 20)
    assert pickle.loads(pickle.dumps(out)).getvalue() == out.getvalue()
    was_left = weakref.ref(out)
    del out
    assert was_left() is None


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_stream_can_be_copied_while_threads_write_to_it(copy_of):
    out = io.StringIO()
    may_end = threading.Event()
    with contextlib.redirect_stdout(out):
        future = mh.submit(may_end.wait, PATIENCE_S)
        until(lambda: is_in_use(out), "a thread is at work")
        print("before")
        copied = copy_of(out)
        print("after")
        may_end.set()
        future.result()
    copied.write("elsewhere")
    copied.flush()
    assert copied.getvalue() == "before\nelsewhere"
    assert out.getvalue() == "before\nafter\n"


def test_a_stream_without_attributes_of_its_own_is_written_to_as_it_is():
    class Bare:
        __slots__ = ("pieces",)

        def __init__(self):
            self.pieces = []

        def write(self, text):
            self.pieces.append(text)

        def flush(self):
            pass

    class Forwards:
        """Answers for another stream, its attributes included."""

        __slots__ = ("_of",)

        def __init__(self, of):
            self._of = of

        def __getattr__(self, name):
            return getattr(self._of, name)

    for stream in (Bare(), Forwards(io.StringIO())):
        with contextlib.redirect_stdout(stream):
            mh.map(print, range(10))
        text = "".join(stream.pieces) if isinstance(stream, Bare) else stream.getvalue()
        assert sorted(text.split("\n")) == sorted(["", *map(str, range(10))]) or len(text) == 20


def test_streams_of_a_users_own_that_make_trouble_are_left_alone():
    class Trouble(Heard):
        def __getattribute__(self, name):
            if name == "__dict__":
                raise RuntimeError("nobody is to look")
            return super().__getattribute__(name)

    out = Trouble()
    with contextlib.redirect_stdout(out):
        mh.map(print, range(5), num_workers=1)
    assert out.getvalue().split() == list("01234")


def test_bars_and_threads_leave_a_stream_in_any_order():
    """Both put something into the place of its method."""
    from manyhands import _progress_stages

    for order in ("bar, threads", "threads, bar"):
        out = io.StringIO()
        stage = _progress_stages.Stage(out)
        may_end = threading.Event()
        with contextlib.redirect_stdout(out):
            if order == "bar, threads":
                stage.enter()
            future = mh.submit(may_end.wait, PATIENCE_S)
            if order == "threads, bar":
                until(lambda out=out: is_in_use(out), "a thread is at work")
                stage.enter()
            mh.map(print, range(5))
            for _ in range(3):
                mh.submit(print, "x", "y").result()
            if order == "bar, threads":
                stage.leave(id(out))
            may_end.set()
            future.result()
            if order == "threads, bar":
                until(lambda out=out: "flush" not in vars(out), "no thread is at work")
                stage.leave(id(out))
        until(lambda out=out: "flush" not in vars(out), "no thread is at work")
        out.write("z")
        assert not is_in_use(out), order
        assert sorted(out.getvalue().split("\n")) == sorted(["z", *map(str, range(5)), *["x y"] * 3])


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


def test_what_goes_to_either_stream_in_order_goes_there_whatever_they_stood_for_before(capfd):
    with contextlib.redirect_stdout(sys.stderr):
        mh.map(print, ["before"], relay="ordered")
    mh.map(lambda x: print(x, file=sys.stderr), ["after"], relay="ordered")
    assert capfd.readouterr() == ("", "before\nafter\n")


def test_streams_change_under_a_thread_that_is_printing(tmp_path):
    """`print` does not hold on to the stream that it writes to."""
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


def test_a_forked_child_has_the_streams_as_they_were():
    is_begun, may_end = threading.Event(), threading.Event()

    def wait(_):
        print("begun", end="")
        is_begun.set()
        assert may_end.wait(PATIENCE_S)

    with contextlib.redirect_stdout(io.StringIO()) as out:
        future = mh.submit(wait, 0)
        assert is_begun.wait(PATIENCE_S)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if not is_in_use(sys.stdout) and not is_in_use(sys.stderr) else 1)
        may_end.set()
        future.result()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert out.getvalue() == "begun"


def test_tasks_without_output_can_have_no_streams_at_all(tmp_path):
    source = """
    import sys
    import manyhands as mh

    sys.stdout = sys.stderr = None
    mh.map(print, range(10), scheduler="threads", num_workers=2)
    """
    check(run(tmp_path, source), "")
