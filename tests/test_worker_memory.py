"""Workers that take too much memory: stopped, tried alone, blamed; real memory, under limits of every kind."""

import json
import os
import resource
import time
from pathlib import Path

import pytest
from faces import FACES, run_with
from scripts import PATIENCE_S, is_alive, run, until

import manyhands as mh

MIB = 1 << 20


@pytest.fixture(params=["processes", "fork"])
def scheduler(request):
    with mh.config.set(scheduler=request.param, num_workers=2, worker_memory_limit="150 MiB"):
        yield request.param


def take(n_mib):
    """Memory that is really there."""
    blocks = []
    for _ in range(n_mib // 8):
        blocks.append(bytearray(os.urandom(4096)) * (8 * MIB // 4096))
    return blocks


def hold_for_ever():
    """Be stopped here."""
    time.sleep(PATIENCE_S)


def append(path, text):
    with open(path, "a") as file:
        file.write(f"{text}\n")


@pytest.mark.parametrize("face", FACES)
def test_a_task_that_takes_too_much_is_stopped_tried_alone_and_blamed(face, scheduler, tmp_path):
    def fit(fold):
        if fold == 5:
            append(tmp_path / "tries", os.getpid())
            blocks = take(200)
            hold_for_ever()
            del blocks
        return fold

    with pytest.raises(mh.WorkerOutOfMemory) as caught:
        run_with(face, fit, range(8))
    error, text = caught.value, str(caught.value)
    assert isinstance(error, MemoryError)
    tries = [int(line) for line in (tmp_path / "tries").read_text().split()]
    assert tries == [error.earlier_pid, error.worker_pid]
    assert not is_alive(error.worker_pid)
    assert error.memory > 100 * MIB
    assert error.memory_limit == 150 * MIB
    assert error.peak_memory > 100 * MIB
    assert error.function.endswith("fit")
    for part in ("fit(5)", "stopped for the memory", "worker_memory_limit", "150 MiB", "while no other task ran"):
        assert part in text
    assert mh.map(abs, [-1, -2]) == [1, 2]


def test_a_task_that_takes_too_much_is_asked_where_it_is_before_it_is_stopped(scheduler):
    def fit():
        blocks = take(200)
        hold_for_ever()
        del blocks

    def ask():
        with pytest.raises(mh.WorkerOutOfMemory) as caught:
            mh.submit(fit).result()
        return caught.value.stack

    # Nobody waits for long for an answer: a busy machine may be too slow for it, though not time after time.
    stacks = []
    until(lambda: stacks.append(ask()) or stacks[-1], "it has answered")
    assert " in fit" in stacks[-1]
    assert "test_worker_memory.py" in stacks[-1]


def test_a_task_that_was_too_much_among_others_gets_its_result_alone(scheduler, tmp_path):
    """Two that do not fit together; one is stopped, and runs again while nothing else does."""
    log = tmp_path / "log"

    def fit(fold):
        start = time.monotonic()
        if fold < 2:
            append(tmp_path / f"tries-{fold}", os.getpid())
            other = tmp_path / f"tries-{1 - fold}"
            n_tries = len((tmp_path / f"tries-{fold}").read_text().split())
            blocks = take(100)
            if n_tries == 1:
                until(lambda: other.exists() and other.read_text().split(), "the other has begun")
                pid = int(other.read_text().split()[0])
                until(lambda: not is_alive(pid), "one of the two is stopped")
            else:
                append(tmp_path / "alone", fold)
            del blocks
        else:
            time.sleep(0.001)
        append(log, json.dumps([fold, start, time.monotonic()]))
        return fold * fold

    assert mh.map(fit, range(40)) == [fold * fold for fold in range(40)]
    (alone,) = (tmp_path / "alone").read_text().split()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (start, end), *more = [(start, end) for fold, start, end in lines if fold == int(alone)]
    assert not more
    others = [line for line in lines if line[0] != int(alone)]
    assert not [line for line in others if line[1] < end and line[2] > start]


# Forked workers live for one call, and are never idle.
@pytest.mark.parametrize("scheduler", ["processes"], indirect=True)
@pytest.mark.usefixtures("scheduler")
def test_what_an_idle_worker_keeps_is_taken_from_it_first(tmp_path):
    """A worker that keeps much of what is over is replaced, and nobody is blamed for it."""
    keep = []

    def hoard(path):
        pids = path.read_text().split() if path.exists() else []
        append(path, os.getpid())
        if not pids:
            keep.append(take(100))
            return os.getpid()
        blocks = take(64)
        # Both are busy with nothing: the other one is idle by now, and has to go.
        until(lambda: not is_alive(int(pids[0])) or int(pids[0]) == os.getpid(), "the hoarder has gone")
        # Within what is left to one.
        del blocks
        return os.getpid()

    hoarder = mh.submit(hoard, tmp_path / "pids").result()
    assert mh.submit(hoard, tmp_path / "pids").result() > 0
    assert hoarder > 0
    assert mh.map(abs, range(-3, 0)) == [3, 2, 1]


def test_memory_that_is_taken_and_given_back_below_the_limit_is_nobody_s_business(scheduler):
    def fit(fold):
        for _ in range(5):
            take(16)
        return fold

    assert mh.map(fit, range(12)) == list(range(12))


def test_shared_memory_does_not_count(scheduler):
    """Arguments, results and arrays that are born shared may be larger than the limit."""
    np = pytest.importorskip("numpy")
    data = np.ones(160 * MIB // 8)

    def total(array, fold):
        time.sleep(0.3)
        return float(array.sum()) + fold

    def make(fold):
        made = np.full(160 * MIB // 8, float(fold))
        time.sleep(0.3)
        return made

    assert mh.map(total, [data] * 2, range(2)) == [data.size + fold for fold in range(2)]
    assert [float(made[-1]) for made in mh.map(make, range(2))] == [0.0, 1.0]


def test_what_a_forked_worker_has_inherited_counts_when_it_is_written_to():
    inherited = take(120)

    def read(_):
        time.sleep(0.3)
        return len(inherited)

    def write(fold):
        if fold == 1:
            for block in inherited:
                block[::4096] = bytes(len(block) // 4096)
            hold_for_ever()
        return fold

    with mh.config.set(scheduler="fork", num_workers=2, worker_memory_limit="75 MiB"):
        assert mh.map(read, range(3)) == [len(inherited)] * 3
        with pytest.raises(mh.WorkerOutOfMemory):
            mh.map(write, range(3))


def test_without_a_limit_nobody_is_stopped(scheduler):
    def fit(fold):
        blocks = take(200)
        time.sleep(0.5)
        return len(blocks)

    with mh.config.set(worker_memory_limit="unlimited"):
        assert mh.map(fit, [1]) == [25]
    # And by default not as long as there is plenty.
    with mh.config.set(worker_memory_limit="auto"):
        assert mh.map(fit, [1]) == [25]


def test_a_share_is_one_of_what_workers_could_have(scheduler):
    def fit(fold):
        blocks = take(80)
        hold_for_ever()
        return len(blocks)

    with mh.config.set(worker_memory_limit=0.001), pytest.raises(mh.WorkerOutOfMemory) as caught:
        mh.map(fit, [1])
    for part in ("memory was running out", "worker_memory_limit=0.001", "were left"):
        assert part in str(caught.value)
    assert caught.value.memory > 64 * MIB


def test_what_the_system_refuses_is_the_task_s_own_error(scheduler):
    def hoard(_):
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, hard))
        try:
            return len(bytearray(1 << 36))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    with pytest.raises(MemoryError) as caught:
        mh.map(hoard, [1])
    assert not isinstance(caught.value, mh.WorkerDied)


# In a control group


GROUP = """
import os, sys, time
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
import manyhands as mh

def fit(fold):
    blocks = []
    while fold == 3 and len(blocks) < 200:
        blocks.append(bytearray(b"x") * (4 << 20))
        time.sleep(0.01 if sys.argv[2] == "auto" else 0)
    return fold

mh.config.set(scheduler="processes", num_workers=2, worker_memory_limit=sys.argv[2])
try:
    mh.map(fit, range(6))
except mh.WorkerOutOfMemory as error:
    print(error)
    print("kind:", "stopped" if error.memory else "killed")
"""


@pytest.fixture
def group():
    """A control group with 600 MiB, where one can be made."""
    for root in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        folder = Path(root, *own_group(root), f"manyhands-test-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        name = "memory.limit_in_bytes" if (folder / "memory.limit_in_bytes").exists() else "memory.max"
        try:
            (folder / name).write_text(str(600 * MIB))
        except OSError:
            folder.rmdir()
            continue
        yield folder
        until(lambda: not (folder / "cgroup.procs").read_text().split(), "the group is empty")
        folder.rmdir()
        return
    pytest.skip("no control group can be made here")


def own_group(root):
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == ("memory" if root.endswith("memory") else ""):
            return path.strip("/").split("/")
    return []


def test_a_control_group_s_limit_is_found_and_kept(group, tmp_path):
    ran = run(tmp_path, GROUP, str(group), "auto")
    assert "kind: stopped" in ran.stdout, ran
    assert f"control group {group}" in ran.stdout
    assert "has 600 MiB" in ran.stdout


def test_a_kill_of_the_system_s_for_want_of_memory_is_told_as_one(group, tmp_path):
    ran = run(tmp_path, GROUP, str(group), "unlimited")
    assert "kind: killed" in ran.stdout, ran
    assert "counted such a kill" in ran.stdout
