"""Any process killed at any moment: the work goes on or ends, and nothing is left of what was shared.

``N_KILLS=200`` kills so many, rather than a few dozen.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scripts import is_alive, processes, start, until

import manyhands as mh

N_KILLS = int(os.environ.get("N_KILLS", "24"))
N_KILLS_EACH = 6

# Arrays come from the parent, from closures, from other tasks and from other workers, and go back; all the time.
PROGRAM = """
    import sys
    import numpy as np
    import manyhands as mh

    mh.config.set(scheduler="processes", num_workers=3, memory_limit=sys.argv[1])
    n = 60_000
    fixed = np.arange(n, dtype=float)

    def scaled(k):
        return fixed * k

    def added(a, b):
        a += b
        return a

    def round_trip(i):
        changing = np.full(n, float(i))
        parts = mh.map(scaled, range(4))
        for k, part in enumerate(parts):
            assert (part == fixed * k).all()
            part += 1
        born = mh.shared.zeros(n)
        born += i
        graph = mh.delayed(changing)
        for k in range(4):
            graph = mh.delayed(added)(graph, mh.delayed(scaled)(k))
        total = mh.delayed(added)(graph, born)
        (found,) = mh.compute(total)
        assert (found == 2 * i + fixed * 6).all()
        assert (changing == i).all() and (born == i).all() and (fixed == np.arange(n)).all()

    i = 0
    while True:
        i += 1
        try:
            round_trip(i)
        except mh.WorkerDied as error:
            print("died", flush=True)
        else:
            print("good", flush=True)
"""


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def memory_files(pid):
    """The memory files that a process has open or mapped, by their numbers; none if it has ended."""
    found = set()
    for entry in listed(f"/proc/{pid}/fd"):
        try:
            if os.readlink(entry).startswith("/memfd:"):
                found.add(os.stat(entry).st_ino)
        except OSError:  # it has closed what was just listed
            continue
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/memfd:"):
            found.add(int(fields[4]))
    return found


def listed(folder):
    """The paths in a folder; none if it is gone."""
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:
        return []


def holders(files):
    """The processes that still hold one of these memory files."""
    return [pid for pid in processes() if is_alive(pid) and memory_files(pid) & files]


def check_that_nothing_is_left(program, files, folders):
    until(lambda: not program.workers(), "no process is left")
    outcome = program.wait()
    assert outcome.returncode == -signal.SIGKILL, outcome
    assert outcome.stderr == "", outcome
    assert files, "the program shared no memory: there is nothing to look for"
    until(lambda: not holders(files), "no memory is left")
    for folder in folders:
        assert os.listdir(folder) == [], folder
    assert not [path for path in listed("/dev/shm") if "manyhands" in path]


def go_on(program):
    """Wait until the program has done something right once more."""
    n_before = program.stdout.count("good")

    def has_gone_on():
        assert program.process.poll() is None, program.wait()
        return program.stdout.count("good") > n_before

    until(has_gone_on, "the work goes on")


@pytest.mark.parametrize("seed", range(-(-N_KILLS // N_KILLS_EACH)))
def test_nothing_remains_of_processes_killed_at_random(seed, tmp_path):
    """Workers first, each amid other work; then the parent."""
    chance = random.Random(seed)
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary)}
    # Every other program has next to no memory for results, so that they are on disk.
    memory_limit = ["unlimited", "1 MiB"][seed % 2]
    with start(tmp_path, PROGRAM, memory_limit, env=environment) as program:
        program.wait_for("good")
        files = set()
        for _ in range(N_KILLS_EACH - 1):
            time.sleep(chance.uniform(0, 0.1))
            workers = until(program.workers, "there are workers")
            victim = chance.choice(workers)
            files |= memory_files(victim) | memory_files(program.pid)
            kill(victim)
            go_on(program)
        time.sleep(chance.uniform(0, 0.1))
        for pid in [program.pid, *program.workers()]:
            files |= memory_files(pid)
        assert program.pid in holders(files)
        kill(program.pid)
        check_that_nothing_is_left(program, files, [home, temporary])


def test_memory_of_dead_workers_is_let_go(tmp_path):
    """However many workers have died: the parent and the living hold what the living share, and no more."""
    n_workers = 3
    # A page each in which workers say what they run, the parent's own memory, and each worker's.
    n_files = n_workers + 1 + n_workers
    with start(tmp_path, PROGRAM, "unlimited") as program:
        program.wait_for("good")
        for _ in range(n_files):
            kill(until(program.workers, "there are workers")[0])
            go_on(program)

        def n_held():
            return max(len(memory_files(pid)) for pid in [program.pid, *program.workers()])

        until(lambda: n_held() <= n_files, "what belongs to the dead is let go")


def inherited_by_a_program(_):
    """The memory files that a program inherits which is given all that can be inherited."""
    source = """
import os
for entry in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink("/proc/self/fd/" + entry))
    except OSError:
        pass
"""
    command = [sys.executable, "-c", source]
    listed = subprocess.run(command, close_fds=False, check=True, capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if "memfd:" in line]


def test_programs_inherit_no_memory():
    """Neither what the parent starts nor what a task starts, which may live long."""
    with mh.config.set(scheduler="processes", num_workers=2):
        born = mh.shared.zeros(1 << 20)
        assert mh.map(np.sum, [born] * 4) == [0.0] * 4
        made = mh.map(np.ones, [1 << 17] * 4)
        assert memory_files(os.getpid())
        assert inherited_by_a_program(None) == []
        assert mh.map(inherited_by_a_program, range(4)) == [[]] * 4
        del made
