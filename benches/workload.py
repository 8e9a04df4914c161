"""The tasks of the benchmarks. They live in a module of their own, so that every engine can send them by name."""

import hashlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MIB = 1 << 20
SPIN_TURNS = 2_000_000


def noop(i: int) -> int:
    """Do nothing; give the argument back, so that a lost or exchanged result shows."""
    return i


def call_batch(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Many calls in one task, for engines that leave batches to their users."""
    return [function(item) for item in items]


def check(results: "list[int]", n: int) -> None:
    """Stop where an engine returned anything but the n arguments in their order."""
    if results != list(range(n)):
        raise AssertionError(f"{n} no-op tasks returned {len(results)} results that are not their arguments in order")


def spin(n_turns: int) -> int:
    """Work for so many turns of an empty loop; unlike those of a range, they cost the same in short and long ones."""
    for _ in itertools.repeat(None, n_turns):
        pass
    return n_turns


_DIGESTED = bytes(4096)
"""Long enough for Python to let go of the interpreter meanwhile."""


def digest(n_times: int) -> int:
    """Work for so many times of reading a few bytes, in code that leaves the interpreter to other threads."""
    if n_times:
        hashlib.sha256(_DIGESTED * n_times).digest()
    return n_times


def digest_s() -> float:
    """Seconds of one of these times."""
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        digest(1000)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / 1000


def spin_beside(_left: object, _right: object, n_turns: int) -> int:
    """Work the same as a task that reads two others."""
    return spin(n_turns)


def spin_map(run_map: Callable[[Callable[[int], int], list[int]], object], n_tasks: int, n_turns: int) -> None:
    """Equal tasks through the map of any engine."""
    run_map(spin, [n_turns] * n_tasks)


def spin_tree(lazy: Callable[[Callable[..., int]], Callable[..., Any]], n_tasks: int, n_turns: int) -> Any:
    """Equal tasks as a tree of pairs, drawn with the lazy calls of any engine; returns its root."""
    leaf, pair = lazy(spin), lazy(spin_beside)
    level = [leaf(n_turns) for _ in range(n_tasks // 2)]
    while len(level) > 1:
        level = [pair(left, right, n_turns) for left, right in zip(level[::2], level[1::2])] + level[len(level) & ~1 :]
    return level[0]


def spin_timed(n_turns: int) -> float:
    """Work for so many turns and return the seconds of processor time they took."""
    begin = time.thread_time()
    spin(n_turns)
    return time.thread_time() - begin


def sleep_timed(duration_s: float) -> float:
    """Sleep and return how long it really was: the system adds to short sleeps."""
    begin = time.perf_counter()
    time.sleep(duration_s)
    return time.perf_counter() - begin


def turn_s(run_map: Callable[[Callable[[int], float], list[int]], list[float]]) -> float:
    """Seconds a turn of `spin` takes while all workers spin, for a map of any engine."""
    return statistics.median(run_map(spin_timed, [SPIN_TURNS] * 8)) / SPIN_TURNS


def mean(data: "np.ndarray[Any, Any]") -> float:
    """Analyse a large array by reading all of it."""
    import numpy as np

    return float(np.mean(data))


def check_means(found: list[float], expected: float, n: int) -> None:
    """Stop where a mean is missing or wrong; the last digits depend on where in memory the array begins."""
    if len(found) != n or not all(math.isclose(value, expected, rel_tol=1e-12) for value in found):
        raise AssertionError(f"the means are {found}, not {n} times {expected}")


def block(i: int) -> "np.ndarray[Any, Any]":
    """Return a large array: 16 MiB full of one number."""
    import numpy as np

    return np.full(16 * MIB // 8, float(i))


def check_blocks(blocks: "list[np.ndarray[Any, Any]]", n: int) -> None:
    """Stop where a block is missing, exchanged, or not what its task returned."""
    found = [(part.nbytes, float(part[0]), float(part[-1])) for part in blocks]
    if found != [(16 * MIB, float(i), float(i)) for i in range(n)]:
        raise AssertionError(f"{n} tasks returned blocks that are not theirs")
