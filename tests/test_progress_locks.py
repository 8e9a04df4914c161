"""What is shown stands in nobody's way: neither of locks, nor of what calls return, nor of what others write."""

from __future__ import annotations

import itertools
import sys
import threading
import warnings

import pytest
from scripts import PATIENCE_S, check, run, until
from terminal import Terminal, run_in_terminal, screen

import manyhands as mh
from manyhands import _progress

SCHEDULERS = ["synchronous", "threads", "processes", "fork"]

# Nobody gives up waiting: what would wait for ever does.
WORK = """
    import os, sys, threading, time
    import manyhands as mh
    from manyhands import _progress, _progress_stages

    _progress_stages.PATIENCE_S = 1000.0

    def nap(x):
        time.sleep(0.02)
        return x

    def wait(x):
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        return x

    def finish():
        open(sys.argv[1], "w").close()
"""


# Locks

HELD = (
    WORK
    + """
    lock, is_inside = threading.Lock(), threading.Event()

    def told(_progress):
        is_inside.set()
        with lock:
            pass

    def call(progress):
        mh.map(wait, range(4), scheduler="threads", num_workers=2, progress=progress)

    with lock:
        threads = [threading.Thread(target=call, args=[kind]) for kind in (True, told)]
        for thread in threads:
            thread.start()
        is_inside.wait()
        # What is told waits for us now.
        """
)


def test_who_writes_may_have_a_lock_that_a_callable_waits_for(tmp_path):
    source = (
        HELD
        + """print("written", flush=True)
    finish()
    for thread in threads:
        thread.join()
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, tmp_path / "go")
    assert "written" in lines


def test_who_forks_may_have_a_lock_that_a_callable_waits_for(tmp_path):
    source = (
        HELD
        + """child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitpid(child, 0)[1] == 7 << 8
    finish()
    for thread in threads:
        thread.join()
    """
    )
    run_in_terminal(tmp_path, source, tmp_path / "go")


def test_who_has_tqdm_s_lock_may_write(tmp_path):
    source = (
        WORK
        + """
    import tqdm
    is_drawn, is_locked = threading.Event(), threading.Event()

    class Bar(tqdm.tqdm):
        def refresh(self, *args, **kwargs):
            is_drawn.set()
            # Where tqdm's lock is ours now, that never comes.
            is_locked.wait(1)
            return super().refresh(*args, **kwargs)

    thread = threading.Thread(
        target=mh.map, args=(wait, range(4)), kwargs={"scheduler": "threads", "num_workers": 2, "progress": Bar}
    )
    thread.start()
    is_drawn.wait()
    with tqdm.tqdm.get_lock():
        is_locked.set()
        sys.stderr.write("written\\n")
    finish()
    thread.join()
    print("END")
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, tmp_path / "go")
    assert "END" in lines


def test_a_lock_that_never_comes_is_not_waited_for(tmp_path):
    source = (
        WORK
        + """
    _progress_stages.PATIENCE_S = 0.1
    thread = threading.Thread(
        target=mh.map, args=(wait, range(4)), kwargs={"scheduler": "threads", "num_workers": 2, "progress": True}
    )
    thread.start()
    from manyhands._progress_stages import bare
    while "write" not in vars(bare(sys.stdout)):
        time.sleep(0.01)
    has, free = threading.Event(), threading.Event()
    def keep():
        with _progress._lock:
            has.set()
            free.wait()
    keeper = threading.Thread(target=keep)
    keeper.start()
    has.wait()
    print("written")
    free.set()
    finish()
    thread.join()
    """
    )
    _, text = run_in_terminal(tmp_path, source, tmp_path / "go")
    assert "written" in text


def test_a_call_that_ends_in_what_shows_it_is_ended_by_that():
    told = []
    stream = mh.stream(abs, range(5), scheduler="synchronous", progress=lambda progress: end(progress))

    def end(progress):
        told.append(progress.status)
        if progress.status == "running":
            stream.close()

    next(stream)
    until(lambda: told and told[-1] != "running", "it has ended")
    assert told[-1] == "closed"
    assert told.count("closed") == 1


# What fails


def fails(told, error):
    """A callable that fails while the call runs, and tasks that wait for that."""
    is_told = threading.Event()

    def tell(progress):
        told.append(progress.status)
        is_told.set()
        raise error

    return tell, lambda _: is_told.wait(PATIENCE_S)


@pytest.mark.parametrize("error", [LookupError("of mine"), ValueError("of mine"), SystemExit(3)])
def test_whatever_a_callable_raises_others_are_shown_on(error, capsys):
    told, seen = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell, task = fails(told, error)
        assert mh.map(task, [1], scheduler="threads", progress=tell) == [True]
        assert told == ["running"]
        is_seen = threading.Event()

        def see(progress):
            seen.append(progress.status)
            is_seen.set()

        assert mh.map(lambda _: is_seen.wait(PATIENCE_S), [1], scheduler="threads", progress=see) == [True]
    assert seen[0] == "running"
    assert f"no longer shown: {type(error).__name__}" in capsys.readouterr().err


def test_warnings_that_are_errors_do_not_end_calls():
    def fail(_progress):
        raise TypeError("of mine")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mh.map(abs, [1], scheduler="threads", progress=fail) == [1]
        with pytest.raises(ZeroDivisionError):
            mh.map(lambda x: 1 / x, [0], scheduler="threads", progress=fail)


class Gone:
    """A terminal that goes away."""

    def __init__(self):
        self.n_left = 3

    def write(self, text):
        self.n_left -= 1
        if self.n_left < 0:
            raise OSError("gone")
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.mark.parametrize("kind", ["auto", "rich"])
def test_a_terminal_that_goes_away_is_no_reason_to_fail(kind, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file = Gone()
    bar = mh.ProgressBar(kind, file=file)
    assert mh.map(lambda _: until(lambda: file.n_left < 0, "it is gone"), [1], scheduler="threads", progress=bar)
    assert not _progress._tracks


# What is said


def test_what_a_submitted_call_prints_appears_though_another_call_is_shown(tmp_path):
    source = (
        WORK
        + """
    def speak(x):
        print("spoken", x, flush=True)

    mh.config.set(scheduler="processes", num_workers=1)
    thread = threading.Thread(target=mh.map, args=(wait, range(4)), kwargs={"scheduler": "threads", "progress": True})
    thread.start()
    from manyhands._progress_stages import bare
    while "write" not in vars(bare(sys.stdout)):
        time.sleep(0.01)
    future = mh.submit(speak, 1)
    thread.join()
    """
    )
    go = tmp_path / "go"
    with Terminal(tmp_path, source, go) as terminal:
        # While nobody asks for it.
        terminal.wait_for("spoken 1")
        go.touch()
        assert terminal.wait() == 0, terminal.text


@pytest.mark.parametrize("kind", ["auto", "tqdm"])
def test_what_is_printed_in_pieces_is_whole(tmp_path, kind):
    source = (
        WORK
        + f"""
    for x in mh.stream(nap, range(30), progress={kind!r}, scheduler="threads", num_workers=1):
        print("alpha", "beta", x, file=sys.stderr)
        print("part ", end="", flush=True)
        time.sleep(0.03)
        print("rest", x)
    """
    )
    lines, _ = run_in_terminal(tmp_path, source)
    said = [line for line in lines if line and "%" not in line]
    assert said == [text for x in range(30) for text in (f"alpha beta {x}", f"part rest {x}")]


def test_what_was_printed_before_is_left_alone(tmp_path):
    source = (
        WORK
        + """
    print("Computing ... ", end="")
    mh.map(nap, range(20), progress=True, scheduler="threads")
    mh.map(nap, range(20), progress=True, scheduler="threads")
    """
    )
    _, text = run_in_terminal(tmp_path, source)
    lines = screen(text, 100)
    assert lines[0] == "Computing ..."
    assert [line[:8] for line in lines[1:]] == ["nap 100%", "nap 100%", ""]


def test_a_bar_of_rich_s_is_left_alone(tmp_path):
    source = (
        WORK
        + """
    import rich.progress
    with rich.progress.Progress() as mine:
        mine.add_task("mine", total=2)
        mh.map(nap, range(20), progress=True, scheduler="threads")
    """
    )
    lines, _ = run_in_terminal(tmp_path, source)
    assert [line[:8] for line in lines] == ["nap 100%", "mine ━━━", ""], lines


# Numbers


def test_a_graph_in_this_thread_knows_its_tasks_from_the_beginning():
    told, is_told = [], threading.Event()

    def tell(progress):
        told.append((progress.done, progress.total, progress.status))
        is_told.set()

    graph = [mh.delayed(lambda _: is_told.wait(PATIENCE_S))(x) for x in range(3)]
    assert mh.compute(graph, scheduler="synchronous", progress=tell) == ([True] * 3,)
    assert told[0] == (0, 3, "running")
    assert told[-1] == (3, 3, "done")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("is_closed", [True, False])
@pytest.mark.parametrize("n", [1000, None])
def test_a_stream_that_is_left_says_how_much_there_would_have_been(scheduler, is_closed, n):
    told = []
    items = itertools.count() if n is None else range(n)
    stream = mh.stream(abs, items, scheduler=scheduler, num_workers=1, buffersize=4, progress=told.append)
    next(stream)
    if is_closed:
        stream.close()
    del stream
    until(lambda: told and told[-1].status != "running", "it has ended")
    assert (told[-1].status, told[-1].total) == ("closed", n)
    assert told[-1].done < 1000


def test_a_result_that_was_given_out_is_not_running(tmp_path):
    for checkpoint in (None, tmp_path / "checkpoint"):
        told = []
        stream = mh.stream(divmod, [5, 6], [2, 2], scheduler="synchronous", progress=told.append, checkpoint=checkpoint)
        next(stream)
        # Before, it may have been shown as not having begun.
        until(lambda told=told: told and told[-1].done == 1, "it is shown")
        assert told[-1].running == 0
        assert len(list(stream)) == 1
        assert (told[-1].done, told[-1].status) == (2, "done")


def test_a_repetition_may_have_an_end():
    assert _progress._number_of([range(5), itertools.repeat(1, 3)]) == 3
    assert _progress._number_of([range(5), itertools.repeat(1)]) == 5
    assert _progress._number_of([itertools.repeat(1)]) is None


# Forked processes


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_forked_process_leaves_its_parent_s_calls_alone(tmp_path, scheduler):
    source = """
    import os, sys
    import manyhands as mh
    parent, told = os.getpid(), []
    def tell(progress):
        assert os.getpid() == parent
        told.append(progress.status)
    stream = mh.stream(abs, range(20), scheduler=sys.argv[1], num_workers=1, progress=tell)
    next(stream)
    child = os.fork()
    if child == 0:
        stream.close()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(len(list(stream)), told[-1])
    """
    outcome = run(tmp_path, source, scheduler)
    if sys.version_info < (3, 12):
        check(outcome, "19 done\n")
    assert (outcome.returncode, outcome.stdout) == (0, "19 done\n"), outcome
    assert "no longer shown" not in outcome.stderr
