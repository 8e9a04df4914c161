"""What calls leave behind, here and in workers: nothing."""

from __future__ import annotations

import builtins
import collections
import contextlib
import decimal
import gc
import json
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from scripts import PATIENCE_S, until

import manyhands as mh

# What is left behind does not depend on how many workers there are.
NUM_WORKERS = [2]


def process_state():
    """What a library may have changed of a process, and users would notice."""
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "import path": list(sys.path),
        "arguments": list(sys.argv),
        "locale": locale.setlocale(locale.LC_ALL),
        "warning filters": list(warnings.filters),
        "showing of warnings": (warnings.showwarning, warnings._showwarnmsg_impl),
        "excepthooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "display": sys.displayhook,
        "tracing": (sys.gettrace(), sys.getprofile()),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "recursion": sys.getrecursionlimit(),
        "switching": sys.getswitchinterval(),
        "collection": (gc.isenabled(), gc.get_threshold()),
        "builtins": set(vars(builtins)),
        "main": set(vars(sys.modules["__main__"])),
        "root logger": (logging.root.level, list(logging.root.handlers), list(logging.root.filters)),
        "NumPy": (np.geterr(), np.get_printoptions()),
        "decimals": repr(decimal.getcontext()),
        "random": random.getstate(),
        "NumPy's random": repr(np.random.get_state(legacy=False)),
        "random generator of NumPy": id(np.random.mtrand._rand._bit_generator),
        "file mode": next(line for line in Path("/proc/self/status").read_text().splitlines() if "Umask" in line),
        "CPUs": os.sched_getaffinity(0),
    }


def differences(before, after):
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def talk(x):
    print("said", x)
    logging.getLogger("of.tasks").warning("logged")
    warnings.warn("warned", stacklevel=1)
    return x


def invert(x):
    return 1 / x


def graph():
    return mh.delayed(sum)([mh.delayed(abs)(-x) for x in range(10)])


def failing():
    with pytest.raises(ZeroDivisionError):
        mh.map(invert, [1, 0, 2])
    assert isinstance(mh.submit(invert, 0).exception(), ZeroDivisionError)


def left_stream():
    stream = mh.stream(abs, range(100))
    next(stream)
    stream.close()


def cancelled():
    for future in [mh.submit(time.sleep, 0.001) for _ in range(4)]:
        future.cancel()


def failing_source():
    with pytest.raises(ZeroDivisionError):
        mh.map(abs, (1 // x for x in (1, 0)))


FACES = {
    "map": lambda: mh.map(abs, range(20)),
    "compute": lambda: mh.compute(graph(), graph()),
    "persist": lambda: graph().persist().compute(),
    "stream": lambda: list(mh.stream(abs, range(20), ordered=False)),
    "submit": lambda: mh.submit(abs, -1).result(),
    "a stream that is left": left_stream,
    "failing": failing,
    "a source that fails": failing_source,
    "cancelled": cancelled,
    "tolerant": lambda: mh.map(invert, [1, 0], on_error="return"),
    "talking": lambda: mh.map(talk, range(6)),
    "talking in order": lambda: mh.map(talk, range(6), relay="ordered"),
    "silent": lambda: mh.map(talk, range(6), relay=False),
    "seeded map": lambda: mh.map(lambda x, rng: rng.random(), range(6), seed=1),
    "seeded graph": lambda: mh.compute(graph(), seed=1),
    "seeded submit": lambda: mh.submit(abs, 1, seed=1).result(),
    "nested": lambda: mh.map(lambda n: mh.map(abs, range(n)), range(4)),
}


@pytest.fixture
def recorded():
    """Have warnings and log records go nowhere, and as the same objects before and after."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        handler = logging.NullHandler()
        logging.root.addHandler(handler)
        yield
        logging.root.removeHandler(handler)


@pytest.mark.parametrize("face", FACES)
def test_a_call_leaves_the_program_as_it_was(face, recorded, capsys):
    FACES[face]()
    random.gauss(0, 1)  # so that half of a pair waits there, which a generator that is put back wrongly forgets
    before = process_state()
    FACES[face]()
    assert differences(before, process_state()) == {}


@pytest.mark.parametrize("face", ["map", "compute", "submit", "failing", "talking in order", "seeded map"])
def test_the_first_call_of_a_program_leaves_it_as_it_was(face, recorded, capsys):
    """Workers start with it, and what the engine needs is imported."""
    mh.shutdown()
    before = process_state()
    FACES[face]()
    assert differences(before, process_state()) == {}


def draw(_):
    return random.random(), np.random.random()


@pytest.mark.parametrize("seed", [None, 1])
def test_draws_of_tasks_are_not_the_programs(seed, where, recorded):
    """Tasks that draw from the global states do not move those of the program, where they are not the program's own."""
    are_its_own = where.scheduler == "threads" or (where.is_synchronous and seed is None)
    before = process_state()
    for run in (
        lambda: mh.map(draw, range(4), seed=seed),
        lambda: mh.compute(mh.delayed(draw)(0), seed=seed),
        lambda: list(mh.stream(draw, range(4), seed=seed)),
        lambda: mh.persist(mh.delayed(draw)(0), seed=seed),
        lambda: mh.submit(draw, 0, seed=seed).result(),
    ):
        run()
        moved = differences(before, process_state())
        if are_its_own:
            # As a function of the program moves them; and nothing else is.
            assert moved.keys() == {"random", "NumPy's random"}
            before = process_state()
        else:
            assert moved == {}


@contextlib.contextmanager
def one_worker():
    with mh.config.set(num_workers=1):
        yield


def state_here(_):
    """The state of a process, of what can be told to another."""
    there = process_state()
    for name in ("random", "NumPy's random", "random generator of NumPy"):
        # What draws without a seed do there is another matter.
        del there[name]
    return {name: repr(value) for name, value in there.items()}


@pytest.mark.parametrize("face", FACES)
def test_a_call_leaves_its_workers_as_they_were(face, where, recorded, capsys):
    if where.is_fork:
        # They live for one call.
        assert len({mh.submit(os.getpid).result() for _ in range(3)}) == 3
        return
    with one_worker():
        FACES[face]()
        before = mh.map(state_here, [0])[0]
        FACES[face]()
        assert differences(before, mh.map(state_here, [0])[0]) == {}


def descriptors():
    """What each descriptor of this process leads to; pipes and the like by their kind."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}").partition(":[")[0])
    return sorted(found)


def kept():
    """What the system keeps for this process; of threads and processes the number, as some are replaced."""
    gc.collect()
    return descriptors(), len(os.listdir("/proc/self/task")), len(children())


def children():
    return Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split()


@pytest.mark.parametrize(
    "face", ["map", "compute", "stream", "submit", "failing", "a stream that is left", "seeded map"]
)
def test_a_call_leaves_no_descriptors_threads_or_processes(face, recorded):
    # Twice, so that all that stays from call to call is there: workers, their threads and connections.
    for _ in range(2):
        FACES[face]()
        mh.map(time.sleep, [0.01] * 8, chunksize=1)
    before = kept()
    for _ in range(5):
        FACES[face]()

    def is_no_more():
        after = kept()
        # What had just ended may have been there still as it was counted before: so there may be less.
        return (
            collections.Counter(after[0]) <= collections.Counter(before[0])
            and after[1] <= before[1]
            and after[2] <= before[2]
        )

    until(is_no_more, f"no more than {before}")


# What workers begin with


PROGRAM = """
import decimal, json, locale, os, sys, time, warnings
os.environ["SET_BY_THE_PROGRAM"] = "yes"
sys.path.append("/nowhere/special")
os.chdir({folder!r})
warnings.filterwarnings("ignore", "special text", UserWarning, "special.module")
sys.argv.append("--special")

import manyhands as mh

def look(_):
    return [
        os.environ.get("SET_BY_THE_PROGRAM"), os.environ.get("SET_BEFORE_IT"), os.environ.get("LC_ALL"), os.getcwd(),
        sys.path, sys.argv, [str(one) for one in warnings.filters if "special" in str(one)], sys.flags.utf8_mode,
        sys.flags.optimize, sys.flags.dont_write_bytecode, list(time.tzname), sys.executable, sys.prefix,
        locale.setlocale(locale.LC_CTYPE), sys.getfilesystemencoding(),
    ]

print(json.dumps([look(0), *mh.map(look, range(3)), mh.submit(look, 0).result(), mh.delayed(look)(0).compute()]))
"""


def test_workers_begin_as_the_program_is(where, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(folder=str(folder)))
    settings = {"MANYHANDS_SCHEDULER": where.scheduler, "MANYHANDS_NUM_WORKERS": str(where.num_workers)}
    env = {**os.environ, **settings, "SET_BEFORE_IT": "yes", "TZ": "Pacific/Chatham", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-X", "utf8", "-O", "-B", str(script), "first"]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    here, *there = json.loads(ran.stdout)
    assert len(there) == 5
    for found in there:
        assert found == here
    assert here[:2] == ["yes", "yes"]
    assert len(here[6]) == 1
