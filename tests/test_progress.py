"""How far calls have come is shown where there is somebody to see it, and nowhere else."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts import PATIENCE_S, check, run, until
from terminal import Terminal, run_in_terminal, screen

import manyhands as mh
from manyhands import _progress, _progress_views

SCHEDULERS = ["synchronous", "threads", "processes", "fork"]

WORK = """
    import os, sys, threading, time
    import manyhands as mh

    def nap(x):
        time.sleep(0.02)
        return x

    def say(x):
        wait(x)
        print(f"line {x}", flush=True)
        return x

    def wait(x):
        path = os.environ.get("AFTER")
        while path and not os.path.exists(path):
            time.sleep(0.01)
        return nap(x)

    mh.config.set(scheduler=sys.argv[1], num_workers=2)
"""

MAP = (
    WORK
    + """
    mh.map(nap, range(20), progress=True)
"""
)


def bars(lines):
    """The lines that are bars."""
    return [line for line in lines if "█" in line or "%" in line]


# In the terminal


def run_after(folder, text, source, *args, **options):
    """The same for a program whose tasks wait for a file, which is made once something has been drawn."""
    seen = folder / "seen"
    with Terminal(folder, WORK + source, *args, env={"AFTER": str(seen)}, **options) as terminal:
        terminal.wait_for(text)
        seen.touch()
        assert terminal.wait() == 0, terminal.text
        return terminal.lines(), terminal.text


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_bar_stands_in_the_terminal_and_a_line_stays(tmp_path, scheduler):
    source = """
    print("before")
    mh.map(wait, range(20), progress=True)
    list(mh.stream(nap, range(10), progress=True))
    mh.compute([mh.delayed(nap)(i) for i in range(10)], progress=True)
    mh.persist([mh.delayed(nap)(i) for i in range(10)], progress=True)
    print("after")
    """
    lines, _ = run_after(tmp_path, "wait   0%", source, scheduler)
    assert lines[0] == "before"
    assert lines[-2:] == ["after", ""]
    assert len(lines) == 7, lines
    names = [line.split()[0] for line in lines[1:5]]
    assert names == ["wait", "nap", "compute", "persist"]
    for line, n_all in zip(lines[1:5], (20, 10, 10, 10)):
        assert f"100% {'█' * 40} {n_all}/{n_all} in " in line


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_it_does_not_tear_what_tasks_print(tmp_path, scheduler):
    source = """
    mh.map(say, range(30), progress=True)
    """
    lines, _ = run_after(tmp_path, "say   0%", source, scheduler)
    (bar,) = bars(lines)
    assert "30/30" in bar
    assert bar == lines[-2]
    said = lines[:-2]
    assert sorted(said) == sorted(f"line {i}" for i in range(30))


def test_it_does_not_tear_what_the_program_logs_and_writes(tmp_path):
    source = (
        WORK
        + """
    import logging
    logging.basicConfig(format="log %(message)s")
    for x in mh.stream(nap, range(20), progress=True):
        logging.warning(x)
        sys.stdout.write(f"out {x}\\n")
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, "processes")
    assert sorted(bars(lines) and [line for line in lines if line and not bars([line])]) == sorted(
        [f"log {x}" for x in range(20)] + [f"out {x}" for x in range(20)]
    )
    assert len(bars(lines)) == 1


def test_half_a_line_is_left_alone(tmp_path):
    source = (
        WORK
        + """
    for x in mh.stream(nap, range(30), progress=True):
        print(x % 10, end="", flush=True)
    print()
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, "threads")
    assert "0123456789" * 3 in lines
    assert len(bars(lines)) == 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_error_leaves_the_terminal_clean(tmp_path, scheduler):
    source = (
        WORK
        + """
    def fail(x):
        time.sleep(0.02)
        return 1 // (12 - x)

    try:
        mh.map(fail, range(20), progress=True)
    except ZeroDivisionError:
        print("failed as it should")
    try:
        for _ in mh.stream(fail, range(20), progress=True):
            pass
    except ZeroDivisionError:
        print("failed as it should")
    mh.map(fail, range(20), progress=True, on_error="skip", retries=1, retry_delay=0)
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, scheduler)
    first, told, second, told_again, third, last = lines
    assert told == told_again == "failed as it should"
    assert "1 failed" in first
    assert "1 failed" in second
    assert last == ""
    assert "20/20" in third
    assert "1 failed, 1 tried again" in third


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_ctrl_c_leaves_the_terminal_clean(tmp_path, scheduler):
    source = (
        WORK
        + """
    try:
        mh.map(nap, range(100_000), progress=True)
    except KeyboardInterrupt:
        print("interrupted as it should be")
    print("and on")
    """
    )
    with Terminal(tmp_path, source, scheduler) as terminal:
        terminal.wait_for("nap ")
        terminal.interrupt()
        assert terminal.wait() == 0, terminal.text
        bar, *rest = terminal.lines()
    assert rest == ["interrupted as it should be", "and on", ""]
    assert bar.endswith("interrupted")


def test_a_stream_that_is_left_is_not_shown_for_ever(tmp_path):
    source = (
        WORK
        + """
    stream = mh.stream(nap, range(1000), progress=True)
    next(stream)
    stream.close()
    print("closed")
    stream = mh.stream(nap, range(1000), progress=True)
    next(stream)
    del stream
    from manyhands import _progress
    while _progress._tracks:
        time.sleep(0.01)
    print("dropped")
    left = mh.stream(nap, range(1000), progress=True)
    next(left)
    print("left")
    """
    )
    for scheduler in ("processes", "synchronous"):
        lines, _ = run_in_terminal(tmp_path, source, scheduler)
        assert [line for line in lines if line and not bars([line])] == ["closed", "dropped", "left"]
        assert [line.rpartition(", ")[2] for line in bars(lines)] == ["closed"] * 3, lines
        assert lines[-1] == ""


def in_threads(n_threads, function):
    """Calls of several threads."""
    return f"""
    with mh.ProgressBar():
        threads = [threading.Thread(target=mh.map, args=({function}, range(20))) for _ in range({n_threads})]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print("end")
    """


def test_calls_of_several_threads_share_the_terminal(tmp_path):
    # They stand below each other before the first task prints.
    lines, _ = run_after(tmp_path, "\x1b[2A", in_threads(3, "say"), "processes")
    assert [line for line in bars(lines) if "20/20" in line] == bars(lines)
    assert len(bars(lines)) == 3
    assert sorted(line for line in lines if line.startswith("line")) == sorted(f"line {x}" for x in [*range(20)] * 3)
    assert lines[-2:] == ["end", ""]
    assert len(lines) == 65


def test_more_bars_than_lines(tmp_path):
    lines, text = run_after(tmp_path, "more calls", in_threads(9, "wait"), "threads", n_rows=5)
    assert len(bars(lines)) == 9
    assert "\x1b[4A" not in text


def test_a_narrow_terminal_is_not_overrun(tmp_path):
    lines, text = run_in_terminal(tmp_path, MAP, "threads", n_columns=24)
    assert all(len(line) < 24 for line in screen(text))
    assert lines[0].startswith("nap 100%")
    assert len(lines) == 2


def test_what_tasks_compute_in_turn_is_not_shown(tmp_path):
    source = (
        WORK
        + """
    def outer(x):
        with mh.ProgressBar():
            mh.map(nap, range(8))
        return sum(mh.map(nap, range(8), progress=True))

    assert mh.map(outer, range(4), progress=True) == [28] * 4
    assert mh.submit(outer, 1).result() == 28
    """
    )
    for scheduler in SCHEDULERS:
        lines, text = run_in_terminal(tmp_path, source, scheduler)
        assert len(lines) == 2, lines
        assert lines[0].startswith("outer 100%")
        assert "nap" not in text


def test_submitted_calls_are_shown_together(tmp_path):
    source = (
        WORK
        + """
    with mh.ProgressBar(description="my calls"):
        futures = [mh.submit(nap, x) for x in range(20)]
        assert [future.result() for future in futures] == [*range(20)]
    """
    )
    for scheduler in ("threads", "processes", "fork"):
        lines, _ = run_in_terminal(tmp_path, source, scheduler)
        # They may all have ended before the last was submitted.
        assert all(line.startswith("my calls") for line in lines[:-1]), lines
        assert lines[-1] == ""
        assert lines[:-1]


def test_what_submitted_calls_print_appears_though_nobody_waits(tmp_path):
    source = (
        WORK
        + """
    from manyhands import _progress
    with mh.ProgressBar():
        futures = [mh.submit(say, x) for x in range(10)]
        while _progress._tracks:
            time.sleep(0.01)
    with mh.ProgressBar():
        more = [mh.submit(say, x) for x in range(10, 20)]
        try:
            mh.submit(lambda: sys.stdout.buffer.raw, lambda: 1, lock=threading.Lock())
        except mh.PicklingError:
            pass
    while _progress._heard:
        time.sleep(0.01)
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, "processes")
    assert sorted(line for line in lines if line.startswith("line")) == sorted(f"line {x}" for x in range(20)), lines


def test_calls_of_a_client_are_shown_together():
    from manyhands.distributed import Client, wait

    may_end = threading.Event()
    seen = []

    def work(x):
        assert may_end.wait(PATIENCE_S)
        return 1 // x

    with Client(n_workers=2, processes=False) as client:
        bar = mh.ProgressBar(lambda progress: seen.append((progress.name, progress.total, progress.done)))
        with bar:
            futures = client.map(work, range(20))
            last = client.submit(lambda xs: len(xs), futures[1:])
            until(lambda: seen and seen[-1] == ("submit", 21, 0), "all calls are shown")
            dropped = client.submit(work, 1)
            until(lambda: seen[-1] == ("submit", 22, 0), "one more is shown")
            was_dropped = weakref.ref(dropped)
            del dropped
            gc.collect()
            assert was_dropped() is None, "to be shown keeps a future"
            may_end.set()
            wait([*futures, last])
            until(lambda: seen[-1] == ("submit", 22, 22), "all have ended")
        with mh.ProgressBar(lambda progress: seen.append((progress.failed, progress.status))):
            again = client.map(work, range(2))
            wait(again)
            until(lambda: seen[-1] == (1, "failed"), "the failure is shown")
        assert not _progress._tracks
        n_seen = len(seen)
        assert client.gather(client.map(work, [1, 2])) == [1, 0]
        assert len(seen) == n_seen, "outside of the block nothing is shown"


def test_calls_of_a_client_that_outlast_the_block_go_on_unshown():
    from manyhands.distributed import Client

    may_end = threading.Event()
    with Client(n_workers=2, processes=False) as client:
        with mh.ProgressBar(lambda progress: None):
            future = client.submit(may_end.wait, PATIENCE_S)
        assert not _progress._tracks
        assert not _progress._heard
        may_end.set()
        assert future.result() is True


def test_a_dumb_terminal_gets_the_last_line_alone(tmp_path):
    lines, text = run_in_terminal(tmp_path, MAP, "threads", env={"TERM": "dumb"})
    assert "\x1b" not in text
    assert text.count("nap") == 1
    assert "20/20" in lines[0]


def test_an_encoding_without_blocks(tmp_path):
    source = MAP
    lines, _ = run_in_terminal(tmp_path, source, "threads", env={"PYTHONIOENCODING": "ascii"})
    assert "#" * 10 in lines[0]


def test_the_environment_can_turn_it_on_and_the_call_off(tmp_path):
    source = (
        WORK
        + """
    mh.map(nap, range(5))
    mh.map(nap, range(7), progress=False)
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, "threads", env={"MANYHANDS_PROGRESS": "1"})
    assert len(lines) == 2
    assert "5/5" in lines[0]
    env = {"MANYHANDS_PROGRESS": "0", "MANYHANDS_FORCE": "1"}
    lines, _ = run_in_terminal(tmp_path, MAP, "threads", env=env)
    assert lines == [""]


def test_results_of_a_checkpoint_are_said(tmp_path):
    source = (
        WORK
        + """
    import logging
    logging.getLogger("manyhands.checkpoint").setLevel(logging.ERROR)
    for face in ("map", "stream", "compute"):
        for n in (10, 15, 15):
            path = f"{sys.argv[2]}/{face}.mh"
            if face == "compute":
                mh.compute([mh.delayed(nap)(x) for x in range(n)], checkpoint=path, progress=True)
            else:
                list(getattr(mh, face)(nap, iter(range(n)), checkpoint=path, progress=True))
    """
    )
    for scheduler in ("processes", "synchronous"):
        folder = tmp_path / scheduler
        folder.mkdir()
        lines, _ = run_in_terminal(tmp_path, source, scheduler, folder)
        for first, second, third in zip(lines[0:9:3], lines[1:9:3], lines[2:9:3]):
            assert "10/10" in first
            assert "checkpoint" not in first
            assert "15/15" in second
            assert "10 from the checkpoint" in second
            assert "15/15" in third
            assert "15 from the checkpoint" in third


def test_workers_that_die_are_counted(tmp_path):
    source = (
        WORK
        + """
    import signal
    def die_once(x):
        time.sleep(0.02)
        if x == 5 and not os.path.exists(sys.argv[2]):
            open(sys.argv[2], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    mh.map(die_once, range(12), progress=True)
    """
    )
    source = source.replace("sys.argv[2]", repr(str(tmp_path / "died")))
    lines, _ = run_in_terminal(tmp_path, source, "processes")
    assert "12/12" in lines[-2]
    assert "1 worker died" in lines[-2]


# By others


def test_tqdm_and_rich(tmp_path):
    source = (
        WORK
        + """
    import tqdm, rich.progress
    mh.map(say, range(10), progress="tqdm")
    mh.map(say, range(10), progress="rich")
    mh.map(say, range(10), progress=tqdm.tqdm)
    with rich.progress.Progress() as mine:
        mh.map(say, range(10), progress=mine)
    bar = tqdm.tqdm(desc="mine", leave=True)
    mh.map(nap, range(10), progress=bar)
    assert bar.n == bar.total == 10
    bar.close()
    with mh.ProgressBar("tqdm"):
        threads = [threading.Thread(target=mh.map, args=(say, range(10))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, "processes")
    said = [line for line in lines if line.startswith("line")]
    assert sorted(said) == sorted(f"line {x}" for x in [*range(10)] * 6), lines
    assert len([line for line in lines if "100%" in line]) == 7, lines


def test_a_callable_is_told():
    told = []
    assert mh.map(abs, range(5), scheduler="threads", progress=told.append) == [*range(5)]
    last = told[-1]
    assert (last.name, last.total, last.done, last.failed, last.status) == ("abs", 5, 5, 0, "done")
    assert last.remaining is None
    assert last.elapsed > 0
    assert "5/5" in repr(last)
    assert all(progress.status == "running" for progress in told[:-1])


def test_a_callable_that_fails_ends_nothing_but_itself():
    def fail(_progress):
        raise LookupError("of mine")

    with pytest.warns(RuntimeWarning, match="no longer shown: LookupError: of mine"):
        assert mh.map(abs, range(5), scheduler="threads", progress=fail) == [*range(5)]


@pytest.mark.parametrize("package", ["tqdm", "rich"])
def test_a_package_that_is_not_there_is_named(package, monkeypatch):
    for name in [package, f"{package}.auto", f"{package}.progress"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(mh.ConfigError, match=f"needs the package {package}"):
        mh.map(abs, range(5), scheduler="synchronous", progress=mh.ProgressBar(package, file=io.StringIO()))


# Where there is no terminal


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_it_is_silent_without_a_terminal(tmp_path, scheduler):
    source = (
        WORK
        + """
    for kind in (True, "tqdm", "rich"):
        mh.map(nap, range(10), progress=kind)
        with mh.ProgressBar(kind):
            list(mh.stream(nap, range(10)))
            mh.compute(mh.delayed(nap)(1))
            mh.submit(nap, 1).result()
    print("rich" in sys.modules, "tqdm" in sys.modules)
    """
    )
    check(run(tmp_path, source, scheduler), "False False\n")


def test_a_file_gets_lines():
    file = io.StringIO()
    with mh.ProgressBar(file=file):
        mh.map(abs, range(5), scheduler="threads")
        with pytest.raises(ZeroDivisionError):
            mh.map(lambda x: 1 // x, [1, 0], scheduler="synchronous")
    first, second = file.getvalue().splitlines()
    assert first.startswith("abs: 100% 5/5 in ")
    assert second.startswith("map: 50% 1/2 in ")
    assert second.endswith("1 failed")


def test_a_file_that_is_closed_is_no_reason_to_fail():
    file = io.StringIO()
    file.close()
    assert mh.map(abs, range(5), scheduler="threads", progress=mh.ProgressBar(file=file)) == [*range(5)]


def test_short_calls_can_be_left_out():
    file = io.StringIO()
    with mh.ProgressBar(file=file, minimum=1000):
        mh.map(abs, range(5), scheduler="threads")
    assert file.getvalue() == ""


def test_the_terminal_s_streams_are_left_as_they_were(tmp_path):
    source = (
        WORK
        + """
    before = sys.stdout.write, sys.stderr.write
    mh.map(nap, range(10), progress=True)
    assert "write" not in vars(sys.stdout) and "write" not in vars(sys.stderr)
    assert (sys.stdout.write, sys.stderr.write) == before
    """
    )
    run_in_terminal(tmp_path, source, "threads")


# In a notebook


NOTEBOOK = """
import time
import manyhands as mh
def nap(x):
    time.sleep(0.03)
    print("line", x)
mh.config.set(scheduler="threads", num_workers=2)
mh.map(nap, range(20), progress=True)
with mh.ProgressBar():
    mh.map(nap, range(20), scheduler="processes")
"""


def test_it_is_shown_in_a_notebook():
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=120)
    try:
        messages = []
        client.execute_interactive(NOTEBOOK, timeout=120, output_hook=messages.append)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    errors = [message["content"] for message in messages if message["msg_type"] == "error"]
    assert not errors, errors
    displayed = [message["content"] for message in messages if message["msg_type"] == "display_data"]
    updates = [message["content"] for message in messages if message["msg_type"] == "update_display_data"]
    assert len(displayed) == 2
    assert all("<progress" in content["data"]["text/html"] for content in displayed)
    ids = [content["transient"]["display_id"] for content in displayed]
    for display_id in ids:
        (*_, last) = [content for content in updates if content["transient"]["display_id"] == display_id]
        assert "20/20 in " in last["data"]["text/html"]
        assert "100%" in last["data"]["text/plain"]
    streams = [message["content"] for message in messages if message["msg_type"] == "stream"]
    printed = "".join(content["text"] for content in streams if content["name"] == "stdout")
    assert sum(f"line {x}" in printed for x in range(20)) == 20
    assert not [content for content in streams if content["name"] == "stderr"]


# What is accepted


@pytest.mark.parametrize("wrong", ["tqmd", 3, b"rich", 0.5, [True]])
def test_what_is_not_accepted(wrong):
    with pytest.raises(mh.ConfigError, match="progress=.* is not accepted. Accepted: True"):
        mh.map(abs, range(3), progress=wrong)
    with pytest.raises(mh.ConfigError, match="is not accepted"):
        mh.ProgressBar(wrong)
    with pytest.raises(mh.ConfigError, match="progress"):
        mh.config.set(progress=wrong)


def test_what_a_bar_does_not_accept():
    with pytest.raises(mh.ConfigError, match="minimum=-1"):
        mh.ProgressBar(minimum=-1)
    with pytest.raises(mh.ConfigError, match="file=3"):
        mh.ProgressBar(file=3)


def test_nothing_of_it_is_imported_where_nobody_wants_it():
    program = "import sys, manyhands as mh; mh.map(abs, range(3), scheduler='threads')\n"
    program += "print([name for name in sys.modules if 'progress' in name])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# Rates and words


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(0, 1000)), min_size=1, max_size=50))
def test_rates_are_sane_whatever_happens(steps):
    rate, elapsed, done = _progress.Rate(), 0.0, 0
    for passed, n_more in steps:
        elapsed, done = elapsed + passed, done + n_more
        rate.update(elapsed, done)
        found, left = rate.rate(elapsed), rate.remaining(elapsed, 10)
        assert (found is None) == (left is None) == (done == 0)
        if found is not None and left is not None:
            assert 0 < found < 1e6 * max(done, 1)
            assert 0 <= left


def test_a_steady_rate_is_found_from_the_start_and_a_change_is_followed():
    rate, elapsed, done = _progress.Rate(), 0.0, 0
    for _ in range(100):
        elapsed, done = elapsed + 0.1, done + 2
        rate.update(elapsed, done)
        assert rate.rate(elapsed) == pytest.approx(20)
        assert rate.remaining(elapsed, 100) == pytest.approx(5, abs=0.1)
    for _ in range(1000):
        elapsed, done = elapsed + 0.1, done + 1
        rate.update(elapsed, done)
    assert 10 <= rate.rate(elapsed) < 11.5


def test_between_the_ends_of_long_tasks_the_remaining_time_runs_down():
    rate = _progress.Rate()
    rate.update(60.0, 4)
    remaining = [rate.remaining(60.0 + second, 8) for second in range(0, 15, 5)]
    assert remaining == pytest.approx([120, 115, 110])
    # One that is overdue lowers the rate.
    assert rate.rate(200.0) < rate.rate(60.0)
    assert rate.remaining(600.0, 8) > 120


@given(st.integers(0, 10**9), st.one_of(st.none(), st.integers(0, 10**9)), st.integers(1, 300), st.booleans())
def test_a_line_fits_whatever_it_says(done, total, n_columns, is_unicode):
    progress = _progress.Progress("näme\n⚙大文字")
    progress.done, progress.total, progress.rate, progress.remaining = done, total, 0.01, 1e6
    progress.failed = progress.retried = progress.died = progress.stored = done
    line = _progress_views.line(progress, n_columns, is_unicode)
    assert _progress_views._n_cells(line) < max(n_columns, 2)
    assert "\n" not in line


def test_the_number_of_calls_is_found_where_it_can_be():
    import itertools

    import numpy as np
    import pandas as pd

    number = _progress._number_of
    assert number([range(5), [1, 2]]) == 2
    assert number([range(5), itertools.repeat(1)]) == 5
    assert number([np.zeros((3, 4))]) == 3
    assert number([iter([1])]) is None
    assert number([itertools.count()]) is None
    # It is iterated over by columns.
    assert number([pd.DataFrame({"a": [1, 2, 3]})]) is None


def test_a_fork_at_any_moment(tmp_path):
    source = (
        WORK
        + """
    stop = threading.Event()
    def talk():
        while not stop.is_set():
            print("talk", flush=True)
            time.sleep(0.001)
    thread = threading.Thread(target=talk)
    thread.start()
    for _ in mh.stream(nap, range(50), progress=True, scheduler="threads"):
        child = os.fork()
        if child == 0:
            assert "write" not in vars(sys.stdout)
            sys.stdout.write("")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    thread.join()
    """
    )
    lines, _ = run_in_terminal(tmp_path, source, "threads")
    assert len(bars(lines)) == 1


def test_distributed_progress(tmp_path):
    source = """
    import time
    from manyhands.distributed import Client, progress
    with Client(n_workers=2) as client:
        progress(client.map(time.sleep, [0.02] * 20))
    """
    lines, _ = run_in_terminal(tmp_path, source)
    assert len(lines) == 2, lines
    assert "20/20" in lines[0]


def test_dask_s_collections_are_shown():
    import dask

    told = []
    with mh.ProgressBar(told.append), dask.config.set(scheduler=mh.dask.get):
        assert dask.delayed(sum)([dask.delayed(abs)(-x) for x in range(5)]).compute() == 10
    assert told[-1].status == "done"
    assert told[-1].done == told[-1].total > 0


def test_threads_that_call_at_once_have_their_own():
    told = []
    with mh.ProgressBar(told.append):
        threads = [
            threading.Thread(target=mh.map, args=(abs, range(n)), kwargs={"scheduler": "threads"}) for n in range(1, 9)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(one.done for one in told if one.status == "done") == [*range(1, 9)]
    until(lambda: not _progress._is_ticking, "nobody draws any more")
