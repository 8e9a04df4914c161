"""Whether a scheduler works here: what `manyhands doctor` runs, each scheduler in a process of its own.

So a scheduler that crashes or waits for ever takes nobody along.
"""

from __future__ import annotations

import json
import time
import zlib
from typing import TYPE_CHECKING

import manyhands as mh
from manyhands import config

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

N_CALLS = 10_000
N_BYTES_LARGE = 4 << 20
# How long one of the calls takes by which the gain is measured, and how many of them each worker has.
CALL_S = 0.025
N_CALLS_EACH = 4


class _Wrong(Exception):
    """A result is not what it should be."""


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise _Wrong(f"the result is {found!r:.200}, and should be {expected!r:.200}")


# What is tried


def simple_calls() -> None:
    """Calls of a function that workers import."""
    _same(mh.map(abs, range(-50, 50)), [abs(i) for i in range(-50, 50)])


def functions_of_the_program() -> None:
    """A function that travels by value, with what it refers to."""
    offset = 7
    _same(mh.map(lambda x: x + offset, range(10)), list(range(7, 17)))


def graphs() -> None:
    """Tasks that wait for tasks."""
    total = mh.delayed(sum)([mh.delayed(pow)(i, 2) for i in range(10)])
    _same(mh.compute(total, {"twice": total * 2}), (285, {"twice": 570}))


def futures() -> None:
    """Calls in the background."""
    _same(mh.submit(divmod, 17, 5).result(), (3, 2))


def large_data() -> None:
    """An argument and a result of some megabytes."""
    data = b"\x5a" * N_BYTES_LARGE
    _same(mh.map(zlib.crc32, [data] * 4), [zlib.crc32(data)] * 4)
    (result,) = mh.map(bytes.upper, [b"a" * N_BYTES_LARGE])
    _same(zlib.crc32(result), zlib.crc32(b"A" * N_BYTES_LARGE))


def errors() -> None:
    """An exception that comes back as itself."""
    try:
        mh.map(lambda x: 1 // x, [1, 0])
    except ZeroDivisionError:
        return
    raise _Wrong("a call that divides by zero did not raise ZeroDivisionError")


def random_streams() -> None:
    """Random numbers that do not depend on where they are drawn."""
    try:
        import numpy as np
    except ImportError:
        return
    expected = [int(np.random.default_rng(child).integers(1000)) for child in np.random.SeedSequence(1).spawn(5)]
    _same(mh.map(_draw, range(5), seed=1), expected)


def _draw(number: int, rng: Any) -> int:
    return int(rng.integers(1000))


CHECKS: tuple[Callable[[], None], ...] = (
    simple_calls,
    functions_of_the_program,
    graphs,
    futures,
    large_data,
    errors,
    random_streams,
)


# What is measured


def spin(n_rounds: int) -> int:
    """Python code that computes."""
    total = 0
    for i in range(n_rounds):
        total += i & 3
    return total


def nothing(item: object) -> None:
    """A call that does nothing."""


def rounds(seconds: float) -> int:
    """How many rounds of `spin` take about so long; the fastest of a few times, as others may be using the machine."""
    n_rounds = 10_000
    while True:
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            spin(n_rounds)
            times.append(time.perf_counter() - begin)
        if min(times) > seconds / 8:
            return max(1, round(n_rounds * seconds / min(times)))
        n_rounds *= 2


def gain(n_workers: int) -> float:
    """How many times as fast as a plain loop the workers run Python code."""
    n_rounds = rounds(CALL_S)
    begin = time.perf_counter()
    for _ in range(N_CALLS_EACH):
        spin(n_rounds)
    each_s = (time.perf_counter() - begin) / N_CALLS_EACH
    n_calls = n_workers * N_CALLS_EACH
    begin = time.perf_counter()
    mh.map(spin, [n_rounds] * n_calls)
    return each_s * n_calls / (time.perf_counter() - begin)


def doing(what: str) -> None:
    """Say what is tried now, in case that nothing is heard any more."""
    print(what, flush=True)


def look(scheduler: str) -> dict[str, Any]:
    """Try a scheduler.

    Parameters
    ----------
    scheduler : str
        Its name.

    Returns
    -------
    dict
        ``first_s``, ``call_s``, ``gain``, ``n_workers``, and ``failures``: a text for each check that failed.
    """
    import traceback

    found: dict[str, Any] = {"scheduler": scheduler, "failures": []}
    with config.set(scheduler=scheduler):
        n_workers = 1 if scheduler == "synchronous" else config.resolve()[1]
        found["n_workers"] = n_workers
        begin = time.perf_counter()
        for check in CHECKS:
            name = check.__name__.replace("_", " ")
            doing(name)
            try:
                check()
            except Exception as error:
                text = "".join(traceback.format_exception_only(type(error), error)).strip()
                found["failures"].append(f"{name}: {text}")
            found.setdefault("first_s", time.perf_counter() - begin)
        if not found["failures"]:
            doing("many small calls")
            begin = time.perf_counter()
            mh.map(nothing, range(N_CALLS))
            found["call_s"] = (time.perf_counter() - begin) / N_CALLS
            doing("calls that compute")
            found["gain"] = gain(n_workers)
    return found


def main(scheduler: str) -> None:
    """Try a scheduler, and print what is tried, and what was found as one line of JSON in the end."""
    print(json.dumps(look(scheduler)))
