"""What tasks print, warn of and log, in whole programs: byte for byte, with workers that die and streams replaced."""

import contextlib
import io
import itertools
import logging
import os
import random
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
from scripts import check, run, start, until

import manyhands as mh
from manyhands import _native, _relay, _reports

TALK = """
    import ctypes, logging, os, subprocess, sys, time, warnings
    import manyhands as mh

    scheduler, relay = sys.argv[1:3]
    mh.config.set(scheduler=scheduler, num_workers=2, relay=relay)

    def talk(x):
        time.sleep(0.002 * (x % 4 == 0))
        print("python", x)
        os.write(1, b"system %d\\n" % x)
        ctypes.CDLL(None).printf(b"compiled %d\\n", ctypes.c_int(x))
        ctypes.CDLL(None).fflush(None)
        if x % 5 == 0:
            subprocess.run(["echo", "program", str(x)])
        sys.stdout.buffer.write(b"\\x00\\xff bytes\\x00")
        sys.stdout.flush()
        print("part", x, end=" ")
        print("error", x, file=sys.stderr)
        os.write(2, b"system error %d\\n" % x)
        warnings.warn(f"warned of {x}")
        logging.getLogger("study").warning("logged %d", x)
        return x
"""


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_in_order_both_streams_are_those_of_the_serial_run_byte_for_byte(scheduler, tmp_path):
    source = (
        TALK
        + """
    sys.stdout.reconfigure(line_buffering=True)
    mh.map(talk, range(25))
    list(mh.stream(talk, range(25, 30)))
    first = [mh.delayed(talk)(x) for x in range(100, 108)]
    mh.compute([mh.delayed(lambda *xs: talk(1000 + sum(xs)))(*first[i:]) for i in range(8)], first)
    """
    )
    serial = run_bytes(tmp_path, source, "synchronous", "live")
    parallel = run_bytes(tmp_path, source, scheduler, "ordered")
    assert parallel[0] == serial[0]
    assert parallel[1] == serial[1]
    assert serial[1].count(b"logged") == 46
    assert serial[1].count(b"UserWarning: warned of 29\n") == 1


SAY = """
    import logging, sys, time, warnings
    import manyhands as mh

    scheduler, relay = sys.argv[1:3]
    mh.config.set(scheduler=scheduler, num_workers=2, relay=relay)

    def say(x):
        time.sleep(0.002 * (x % 4 == 0))
        print("python", x)
        print("part", x, end=" ")
        sys.stdout.write(f"written {x}\\n")
        print("error", x, file=sys.stderr)
        warnings.warn(f"warned of {x}")
        logging.getLogger("study").warning("logged %d", x)
        return x

    mh.map(say, range(25))
    list(mh.stream(say, range(25, 30)))
    first = [mh.delayed(say)(x) for x in range(100, 108)]
    mh.compute([mh.delayed(lambda *xs: say(1000 + sum(xs)))(*first[i:]) for i in range(8)], first)
"""


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes", "fork"])
def test_in_order_what_python_writes_is_that_of_the_serial_run_byte_for_byte(scheduler, tmp_path):
    """Where tasks share a process with others, what they put on its descriptors past Python cannot be told apart."""
    serial = run_bytes(tmp_path, SAY, "synchronous", "live")
    assert run_bytes(tmp_path, SAY, scheduler, "ordered") == serial
    assert serial[0].count(b"written") == 46
    assert serial[1].count(b"logged") == 46


def run_bytes(folder, source, *args):
    path = folder / "program.py"
    path.write_text(textwrap.dedent(source))
    ended = subprocess.run([sys.executable, path, *args], stdin=subprocess.DEVNULL, capture_output=True)
    assert ended.returncode == 0, ended
    return ended.stdout, ended.stderr


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_without_relay_nothing_is_written_at_all(scheduler, tmp_path):
    source = (
        TALK
        + """
    mh.map(talk, range(10), relay=False)
    mh.compute([mh.delayed(talk)(x) for x in range(4)], relay=False)
    print("here")
    """
    )
    check(run(tmp_path, source, scheduler, "live"), "here\n")


def test_calls_with_and_without_relay_do_not_mix(tmp_path):
    source = (
        TALK
        + """
    def say(x):
        print(x)

    for turn in range(10):
        mh.map(say, [f"heard {turn} {x}" for x in range(20)])
        mh.map(say, [f"unheard {turn} {x}" for x in range(20)], relay=False)
        mh.map(say, [f"ordered {turn} {x}" for x in range(20)], relay="ordered")
    """
    )
    outcome = run(tmp_path, source, "processes", "live")
    check(outcome)
    lines = outcome.stdout.splitlines()
    assert len(lines) == 400
    assert "unheard" not in outcome.stdout
    for turn in range(10):
        assert [line for line in lines if line.startswith(f"ordered {turn} ")] == [
            f"ordered {turn} {x}" for x in range(20)
        ]
        assert sum(line.startswith(f"heard {turn} ") for line in lines) == 20


@pytest.mark.parametrize("fate", ["dies", "hangs", "hangs and fails"])
@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_a_task_that_is_lost_holds_up_no_output(scheduler, fate, tmp_path, capsys):
    """Of a stream without end, whose output cannot wait for the end."""

    def act(x):
        if x == 3:
            if fate == "dies":
                os._exit(1)
            if fate == "hangs" or not (tmp_path / "hung").exists():
                (tmp_path / "hung").touch()
                time.sleep(3600)
            raise LookupError(x)
        print("says", x)
        return x

    keywords = {"timeout": None if fate == "dies" else 2, "retries": 1 if fate == "hangs and fails" else 0}
    results = mh.stream(
        act,
        itertools.count(),
        scheduler=scheduler,
        num_workers=2,
        relay="ordered",
        on_error="return",
        retry_delay=0,
        **keywords,
    )
    found = list(itertools.islice(results, 60))
    heard = [int(x) for x in capsys.readouterr().out.split("says ") if x]
    results.close()
    assert isinstance(found[3], Exception)
    # On a machine that does other things, others may be out of time.
    expected = [x for x in range(60) if not isinstance(found[x], Exception)]
    assert heard == sorted(heard)
    assert [x for x in heard if x in expected] == expected


def test_a_task_whose_worker_dies_is_heard_once_in_order(tmp_path):
    source = (
        TALK
        + """
    def fall(x):
        print("begins", x, flush=True)
        if x == 2 and not os.path.exists(sys.argv[3]):
            open(sys.argv[3], "w").close()
            os._exit(1)
        print("ends", x)

    mh.map(fall, range(5))

    def die(x):
        print("last words", flush=True)
        os._exit(1)

    try:
        mh.map(die, range(1))
    except mh.WorkerDied as error:
        # The worker may have run tasks of the first call: theirs are the lines before.
        assert error.output.splitlines()[-1] == "last words", error.output
    """
    )
    outcome = run(tmp_path, source, "processes", "ordered", tmp_path / "fell")
    check(outcome, "".join(f"begins {x}\nends {x}\n" for x in range(5)) + "last words\n")


def test_a_task_that_replaces_its_streams_is_heard_in_order(tmp_path):
    source = (
        TALK
        + """
    def replace(x):
        saved = os.dup(1)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        print("lost", x, flush=True)
        os.dup2(saved, 1)
        os.close(saved), os.close(null)
        print("heard", x)

    mh.map(replace, range(20))
    """
    )
    check(run(tmp_path, source, "processes", "ordered"), "".join(f"heard {x}\n" for x in range(20)))


def test_log_records_arrive_while_a_task_goes_on(tmp_path):
    source = (
        TALK
        + """
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(processName)s %(message)s", level="INFO")

    def work(path):
        logging.info("begun")
        logging.debug("unwanted")
        while not os.path.exists(path):
            time.sleep(0.01)

    mh.map(work, sys.argv[3:])
    """
    )
    go = tmp_path / "go"
    with start(tmp_path, source, "processes", "live", go) as program:
        program.wait_for("begun\n")
        go.touch()
        check(program.wait(), "INFO MainProcess begun\n")


@pytest.mark.parametrize("scheduler", ["processes", "fork"])
def test_loggers_that_go_their_own_way_are_heard_by_their_handlers(scheduler, tmp_path):
    source = (
        TALK
        + """
    class List(logging.Handler):
        def emit(self, record):
            kept.append(record.getMessage())

    kept = []
    own = logging.getLogger("own")
    own.propagate = False
    own.addHandler(List())

    def work(x):
        logging.getLogger("own").warning("of %d", x)

    mh.map(work, range(3))
    assert sorted(kept) == ["of 0", "of 1", "of 2"], kept
    """
    )
    check(run(tmp_path, source, scheduler, "live"), "")


def test_a_program_without_logging_hears_what_python_would_write(tmp_path):
    source = """
    import sys
    import manyhands as mh

    def work(x):
        import logging
        logging.warning("careful")
        logging.getLogger("own").info("not wanted")

    mh.map(work, range(1), scheduler=sys.argv[1])
    """
    serial = run(tmp_path, source, "synchronous")
    assert serial.stderr == "WARNING:root:careful\n"
    parallel = run(tmp_path, source, "processes")
    assert (parallel.returncode, parallel.stdout, parallel.stderr) == (0, "", serial.stderr)


def test_warnings_show_the_line_they_come_from(tmp_path):
    source = (
        TALK
        + """
    def careless(x):
        warnings.warn("mind the step", DeprecationWarning)  # the line

    mh.map(careless, range(100))
    """
    )
    outcome = run(tmp_path, source, "processes", "live")
    assert outcome.stderr.count("mind the step") == 2, outcome  # the text, and the line itself
    assert "DeprecationWarning: mind the step\n" in outcome.stderr
    assert "# the line" in outcome.stderr


def test_a_script_is_told_of_random_numbers_at_the_line_of_its_call(tmp_path):
    source = """
    import sys
    import manyhands as mh

    def simulate(x):
        import random
        return random.random()

    if __name__ == "__main__":
        mh.map(simulate, range(20), scheduler=sys.argv[1], num_workers=2)  # here
        mh.map(simulate, range(20), scheduler=sys.argv[1], num_workers=2, seed=1)
    """
    for scheduler in ("processes", "fork", "synchronous"):
        outcome = run(tmp_path, source, scheduler)
        assert outcome.returncode == 0, outcome
        assert outcome.stderr.count("UndeclaredRandomWarning") == 1, outcome
        assert "program.py:10: UndeclaredRandomWarning: The function 'simulate'" in outcome.stderr
        assert "# here" in outcome.stderr


def test_drawing_very_much_is_noticed(tmp_path):
    source = """
    import sys
    import numpy as np
    import manyhands as mh

    def much(x):
        return np.random.random(1_000_000).mean()

    mh.map(much, range(2), scheduler=sys.argv[1], num_workers=1)
    """
    for scheduler in ("processes", "threads"):
        outcome = run(tmp_path, source, scheduler)
        assert outcome.stderr.count("UndeclaredRandomWarning: The function 'much'") == 1, outcome


TORCH = """
    # Stands for torch, as far as its global generator goes.
    import random

    class State:
        def __init__(self, state):
            self.state = state

        def numpy(self):
            return repr(self.state).encode()

    class Generator:
        def __init__(self):
            self.manual_seed(0)

        def manual_seed(self, seed):
            self.seed, self.numbers = seed, random.Random(seed)

        def initial_seed(self):
            return self.seed

        def get_state(self):
            return State(self.numbers.getstate())

    default_generator = Generator()

    def rand():
        return default_generator.numbers.random()
"""


def test_looking_at_torch_in_one_thread_does_not_stop_the_others(tmp_path):
    """Asking it runs Python, which lets other threads run: none of our locks may be held meanwhile."""
    (tmp_path / "torch.py").write_text(
        textwrap.dedent(
            """
            import time

            class Generator:
                def initial_seed(self):
                    time.sleep(0.05)
                    return 1

            default_generator = Generator()
            """
        )
    )
    source = """
    import random
    import numpy
    import torch
    import manyhands as mh

    print(sum(mh.map(lambda _: bool(random), range(50), scheduler="threads", num_workers=4, chunksize=1)))
    """
    check(run(tmp_path, source), "50\n")


def test_torch_is_looked_at_as_well(tmp_path):
    """By a module that behaves alike; the real one is large."""
    (tmp_path / "torch.py").write_text(textwrap.dedent(TORCH))
    source = """
    import sys, warnings
    import torch
    import manyhands as mh

    def draw(x):
        return torch.rand()

    def seeding(x):
        torch.default_generator.manual_seed(x)
        return torch.rand()

    mh.config.set(scheduler=sys.argv[1], num_workers=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mh.map(seeding, range(1, 20))
        assert not caught, caught[0]
        # It is looked at now and then only.
        while not caught:
            mh.map(draw, range(100))
    print(caught[0].message)
    """
    for scheduler in ("processes", "threads", "synchronous"):
        outcome = run(tmp_path, source, scheduler)
        check(outcome)
        assert outcome.stdout.startswith("The function 'draw'")
        assert "`torch`" in outcome.stdout


def test_random_is_not_imported_for_those_who_do_not_use_it(tmp_path):
    source = """
    import sys
    import manyhands as mh

    def found(x):
        return [name for name in ("random", "numpy") if name in sys.modules]

    assert found(1) == [], found(1)
    mh.map(abs, range(10), scheduler="synchronous")
    assert found(1) == [], found(1)
    print(mh.map(found, range(1), scheduler="processes"))
    """
    check(run(tmp_path, source), "[[]]\n")


def test_what_lies_where_is_known_of_both_generators():
    """Otherwise nothing would be noticed: on a Python or NumPy that this fails for, say where they lie now."""
    assert random.random() < 1
    assert np.random.random() < 1
    assert _native._probe_watched() == 3


def test_levels_are_looked_up_only_when_one_has_changed():
    known = _reports.levels()
    assert _reports.levels() is known
    logger = logging.getLogger("manyhands.test.levels")
    logger.setLevel(5)
    changed = _reports.levels()
    assert changed is not known
    assert changed[2]["manyhands.test.levels"] == 5
    assert _reports.levels() is changed
    logger.setLevel(logging.NOTSET)
    assert _reports.levels() == known


def test_filters_survive_their_way():
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.filterwarnings("ignore", "some.*text", UserWarning, r"a\.module", 7)
        warnings.simplefilter("error", DeprecationWarning)
        before = warnings.filters[:]
        told = _reports.told_filters(tuple(before))
        warnings.resetwarnings()
        _reports.set_filters(told)
        assert warnings.filters == before
        told.append(("ignore", None, ("no_such_module_at_all", "Gone"), None, 0))
        _reports.set_filters(told)
        assert warnings.filters == before


def test_text_goes_to_streams_of_any_kind():
    class Plain:
        def __init__(self):
            self.texts = []

        def write(self, text):
            self.texts.append(text)

    plain, wrapped = Plain(), io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    with contextlib.redirect_stdout(plain):
        _relay.write(1, "größe\n".encode())
        _relay.write(1, b"\xff")
    assert plain.texts == ["größe\n", "\\xff"]
    with contextlib.redirect_stdout(wrapped):
        print("before", end=" ")
        _relay.write(1, b"\xff\x00")
    assert wrapped.buffer.getvalue() == b"before \xff\x00"
    with contextlib.redirect_stdout(None):
        _relay.write(1, b"nobody")


def test_threads_of_two_calls_at_once_are_kept_apart(capsys):
    """One in order, the other silent, and the program prints in between."""
    import threading

    def say(text):
        for line in range(20):
            print(text, line)

    def other():
        mh.map(say, ["silent"] * 20, scheduler="threads", relay=False)

    thread = threading.Thread(target=other)
    thread.start()
    mh.map(say, range(20), scheduler="threads", relay="ordered")
    thread.join()
    print("done")
    assert capsys.readouterr().out.splitlines() == [
        *(f"{text} {line}" for text in range(20) for line in range(20)),
        "done",
    ]
    until(lambda: type(sys.stdout) is not _relay._Proxy, "the streams are the program's own again")


def test_a_stream_that_is_dropped_gives_the_streams_back():
    results = mh.stream(print, range(1000), scheduler="threads", relay=False)
    next(results)
    results.close()
    del results
    until(lambda: type(sys.stdout) is not _relay._Proxy, "the streams are the program's own again")


def test_what_is_said_at_random_moments_is_heard_once_and_in_order(capsys):
    """Random amounts, by random ways, with random pauses."""
    numbers = random.Random(20261126)
    script = [[numbers.choice("pwes") for _ in range(numbers.randrange(6))] for _ in range(60)]

    def act(number):
        for step, way in enumerate(script[number]):
            if way == "p":
                print("print", number, step, flush=True)
            elif way == "w":
                os.write(1, b"write %d %d\n" % (number, step))
            elif way == "e":
                print("error", number, step, end="", flush=True)
            else:
                import time

                time.sleep(0.001)

    words = {"p": "print", "w": "write", "e": "error"}
    expected = ""
    for number, ways in enumerate(script):
        for step, way in enumerate(ways):
            if way != "s":
                expected += f"{words[way]} {number} {step}" + "\n" * (way != "e")

    for scheduler in ("processes", "fork"):
        mh.map(act, range(60), scheduler=scheduler, num_workers=3, relay="ordered")
        assert capsys.readouterr().out == expected
