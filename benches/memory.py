"""How much memory a program and all its processes take, together and counted once."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

SAMPLE_S = 0.01


def family(pid: int) -> list[int]:
    """A process and all that descend from it, the process itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name of a program may hold anything, a closing parenthesis included: what counts comes after it.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def end_family(pid: int) -> None:
    """Kill a process and all that descend from it."""
    for member in family(pid):
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _kib(text: str, name: str) -> int:
    for line in text.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def in_use(pids: list[int]) -> int:
    """Bytes of these processes' own and mapped pages, each page counted once, and of all shared memory.

    Shared memory is counted for the whole machine: what nobody has mapped at the moment is held all the same.
    """
    n_kib = _kib(Path("/proc/meminfo").read_text(), "Shmem")
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        n_kib += _kib(rollup, "Pss_Anon") + _kib(rollup, "Pss_File")
    return n_kib * 1024


def growth(run: Callable[[], object]) -> int:
    """Bytes by which this process and its descendants grow at most while something runs."""
    pids = family(os.getpid())
    before = in_use(pids)
    peak = before
    is_over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.is_set():
            begin = time.perf_counter()
            peak = max(peak, in_use(family(os.getpid())))
            # Looking stops who is looked at: no more than a fifth of the time goes into it.
            is_over.wait(max(SAMPLE_S, 4 * (time.perf_counter() - begin)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        # Kept until the last look: what the run returned is a part of what it takes.
        kept = run()
        peak = max(peak, in_use(family(os.getpid())))
        del kept
    finally:
        is_over.set()
        watcher.join()
    return peak - before
