"""Journals of calls: when each task began and ended, on which worker and how, and what that says of speed-up.

Imported once somebody keeps one. The engine writes the lines (crates/executor/src/journal.rs); here are the calls that
they belong to, and what is made of both.
"""

from __future__ import annotations

import os
from _thread import RLock, _local
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any, NamedTuple, TypeVar

from manyhands import _native, _run

T = TypeVar("T")

__all__ = ["Journal", "JournalCall", "JournalTask", "JournalWorker", "Writing", "journal", "noting", "place"]

_RETURNED, _FAILED, _RETRIED, _DIED, _TIMEOUT, _STOPPED = range(6)
_OUTCOMES = ("returned", "failed", "retried", "died", "timeout", "stopped")

# Those of these kinds last as long as somebody waits for them; others, until their tasks have ended.
_WAITED_FOR = ("map", "compute", "persist", "dask")
# Those of these kinds are one in the journal, if they call the same.
_JOINED = ("submit", "Executor.submit")


class JournalTask(NamedTuple):
    """A task that has ended, or an attempt at it.

    `call` is the number of its call, and `task` its own in the call. `worker` is the number of its worker in the pool.
    `began` and `ended` are in seconds since the epoch, and `duration` in seconds.
    """

    call: int
    function: str
    task: int
    scheduler: str
    worker: int
    began: float
    ended: float
    duration: float
    outcome: str


class JournalCall(NamedTuple):
    """A call, and what its tasks say of it. Times are in seconds, `began` and `ended` since the epoch."""

    call: int
    kind: str
    function: str
    scheduler: str
    workers: int
    tasks: int
    failed: int
    retried: int
    began: float
    ended: float | None
    wall: float
    work: float
    speed_up: float
    efficiency: float
    longest: float
    startup: float
    tail: float


class JournalWorker(NamedTuple):
    """What a worker did for a call: how many tasks, for how many seconds, which is what share of the call's."""

    call: int
    worker: int
    tasks: int
    work: float
    busy: float


class _Entry:
    """A call in a journal."""

    __slots__ = ("account", "function", "kind", "scheduler", "workers")

    def __init__(self, kind: str, function: str, account: _native.Account) -> None:
        self.kind = kind
        self.function = function
        self.account = account
        self.scheduler: str | None = None
        self.workers = 1

    def place(self, scheduler: str, n_workers: int) -> None:
        """Say where its tasks run, if that is not known yet."""
        if self.scheduler is None:
            self.workers = 1 if scheduler == "synchronous" else n_workers
            self.scheduler = scheduler

    def name(self) -> str:
        """What it calls."""
        if self.function:
            return self.function
        names = self.account.names()
        if len(set(names)) > 1:
            return f"{names[0]} and {len(set(names)) - 1} more"
        return names[0] if names else self.kind


class Journal:
    """What became of calls and their tasks; see `journal`, which makes one.

    Attributes
    ----------
    calls : list of JournalCall
        One for each call, in the order in which they began; submitted calls of one function are one. Each has the
        fields `call` (its number), `kind` (``"map"``), `function`, `scheduler`, `workers` (how many it could use),
        `tasks` (how many have ended), `failed`, `retried`, `began`, `ended` (None while it goes on), `wall`, `work`,
        `speed_up`, `efficiency`, `longest` (how long the longest task took), `startup` (until the first task began) and
        `tail` (how long the first worker that ran out of tasks had none, until the last task ended).
    tasks : list of JournalTask
        One for each task, and for each attempt where one was tried again, with the fields `call`, `function`, `task`
        (its number in the call), `scheduler`, `worker`, `began`, `ended`, `duration` and `outcome`: ``"returned"``,
        ``"failed"``, ``"retried"``, ``"died"`` (its worker did), ``"timeout"``, or ``"stopped"``. Of a call, a million
        at most; more are in its sums alone.
    workers : list of JournalWorker
        One for each worker that a call had, with the fields `call`, `worker`, `tasks`, `work` and `busy`: its share of
        the call's time.
    """

    def __init__(self) -> None:
        self._clock = _native.JournalClock()
        self._lock = RLock()
        self._entries: list[_Entry] = []
        self._joined: dict[tuple[object, ...], _Entry] = {}
        self._is_nested: list[bool] = []

    def __enter__(self) -> Journal:
        # Calls that tasks make are part of their tasks; and those of others are no business of a task's.
        is_nested = _run.is_nested()
        if not is_nested:
            if self in _run._journals:
                raise RuntimeError("the journal is being kept already: a with block in the block of the same journal")
            _run._journals.append(self)
        self._is_nested.append(is_nested)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        # In a forked process there are none any more.
        if not self._is_nested.pop() and self in _run._journals:
            _run._journals.remove(self)

    def _begin(self, kind: str, function: object, where: tuple[str, int] | None) -> _Entry:
        """Take a call in, which begins now; or one more of those that are one in the journal."""
        name = "" if function is None else _native.function_name(function)
        if kind not in _JOINED or where is None:
            return self._add(kind, name, where)
        key = (kind, getattr(function, "__module__", None), getattr(function, "__qualname__", name), where)
        with self._lock:
            entry = self._joined.get(key)
            if entry is None:
                entry = self._joined[key] = self._add(kind, name, where)
            return entry

    def _add(self, kind: str, name: str, where: tuple[str, int] | None) -> _Entry:
        entry = _Entry(kind, name, _native.Account(self._clock))
        if where is not None:
            entry.place(*where)
        with self._lock:
            self._entries.append(entry)
        return entry

    def _numbered(self) -> Iterator[tuple[int, _Entry]]:
        with self._lock:
            entries = list(self._entries)
        return enumerate(entries)

    @property
    def calls(self) -> list[JournalCall]:
        now = self._clock.now()
        return [_call_of(number, entry, now) for number, entry in self._numbered()]

    @property
    def tasks(self) -> list[JournalTask]:
        listed: list[JournalTask] = []
        for number, entry in self._numbered():
            name, scheduler = entry.name(), entry.scheduler or ""
            for task, worker, began, ended, duration, outcome, own_name in entry.account.tasks():
                told = (worker, began, ended, duration, _OUTCOMES[outcome])
                listed.append(JournalTask(number, own_name or name, task, scheduler, *told))
        return listed

    @property
    def workers(self) -> list[JournalWorker]:
        now = self._clock.now()
        listed: list[JournalWorker] = []
        for number, entry in self._numbered():
            wall = _call_of(number, entry, now).wall
            for worker, n_tasks, work, _ in entry.account.workers():
                listed.append(JournalWorker(number, worker, n_tasks, work, _ratio(work, wall)))
        return listed

    def __repr__(self) -> str:
        calls = self.calls
        n_tasks = sum(call.tasks for call in calls)
        return f"<Journal of {len(calls)} call(s), {n_tasks} task(s)>"

    def __str__(self) -> str:
        calls = self.calls
        if not calls:
            return "No calls."
        rows = [_HEAD, *(_row(call) for call in calls)]
        if len(calls) > 1:
            rows.append(_total(calls, self._clock.now()))
        lines = _aligned(rows)
        n_left_out = sum(entry.account.sums()[5] for _, entry in self._numbered())
        if n_left_out:
            lines.append(f"{n_left_out} tasks are not listed one by one.")
        return "\n".join(lines)


def journal() -> Journal:
    """Keep a journal of calls: of each task, when it began and ended, on which worker, and how.

    In a ``with`` block it takes in all calls that are made in this process while the block lasts, by whichever thread.
    Printed, it is a table of the calls, which says how well the workers were used.

    Returns
    -------
    Journal
        A context manager. Its attributes `calls`, `tasks` and `workers` are lists of named tuples, as a data frame is
        made of. They can be read at any time; calls that are under way when the block ends are noted to their end.

    Notes
    -----
    `work` is what the tasks took, all together, and `speed_up` is ``work / wall``: how many of them ran at a time, on
    average. That is how much sooner the call was done than one task after the other, provided that these would take as
    long then. They would not where they wait for each other: Python code in threads waits for the interpreter's lock,
    and that counts as work; run the call with ``scheduler="synchronous"`` to compare. `efficiency` is
    ``speed_up / workers``: the share of their time in which the workers had work.

    A task in a worker process takes from when the worker turns to it until its result is pickled; the first that a
    worker has of a function, with the import of that. Tasks shorter than 20 µs that follow each other are noted
    together, each with the mean. Durations are exact otherwise; `began` and `ended`
    are reckoned back from when the news came in, some two milliseconds after the fact at most while all is well. Of a
    task whose worker died or was ended, `duration` is at most what it took.

    Calls that tasks make are part of their tasks, and so are not noted; nor are those of `manyhands.distributed`. Tasks
    whose results are in a checkpoint do not run, and the others are numbered among themselves.

    Examples
    --------
    >>> import manyhands as mh
    >>> with mh.journal() as journal:
    ...     squares = mh.map(pow, range(100), [2] * 100)
    >>> [call] = journal.calls
    >>> call.function, call.tasks, call.failed
    ('pow', 100, 0)
    >>> call.efficiency <= 1.01
    True
    >>> longest = max(journal.tasks, key=lambda task: task.duration)
    >>> longest.outcome
    'returned'
    """
    return Journal()


# What calls ask for

# The call that this thread is making.
_current = _local()


class Writing:
    """A context for a call: the next job that this thread submits is noted as the call's.

    `shown` is a context of the call's own, which this one takes in.
    """

    def __init__(self, kind: str, function: object, shown: Any, where: tuple[str, int] | None) -> None:
        self._call = (kind, function, where)
        self.is_waited_for = kind in _WAITED_FOR
        self._shown = shown
        self.entries: list[_Entry] = []

    def __enter__(self) -> Any:
        self.entries = [one._begin(*self._call) for one in list(_run._journals)]
        self._outer = getattr(_current, "writing", None)
        self._before = _native.enter_accounts([entry.account for entry in self.entries])
        _current.writing = self
        return self._shown.__enter__()

    def __exit__(self, *exc_info: Any) -> Any:
        _native.enter_accounts(self._before)
        _current.writing = self._outer
        for entry in self.entries:
            if self.is_waited_for:
                entry.account.close()
            elif exc_info[0] is not None:
                # Maybe nothing was submitted, and nothing will come of it.
                entry.account.settle()
        return self._shown.__exit__(*exc_info)


def place(scheduler: str, n_workers: int) -> None:
    """Say where the tasks of the call run that this thread is making."""
    writing = getattr(_current, "writing", None)
    if writing is not None:
        for entry in writing.entries:
            entry.place(scheduler, n_workers)


class _NotedSerial:
    """Makes the tasks of a call in the thread that asks for them, as a `_native.Serial` does, and notes them."""

    __slots__ = ("_accounts", "_failed", "_firsts", "_is_waited_for", "_n_tasks", "_serial", "is_silent")

    def __init__(self, serial: _native.Serial, accounts: list[_native.Account], is_waited_for: bool) -> None:
        self.is_silent = serial.is_silent
        self._serial = serial
        self._accounts = accounts
        self._is_waited_for = is_waited_for
        self._firsts: list[int] | None = None
        self._n_tasks = 0
        # The task that has just failed.
        self._failed: int | None = None

    def call(self, number: int, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> T:
        """Make a call, and note how it ends."""
        if self._firsts is None:
            self._firsts = [account.begin_here() for account in self._accounts]
        if self._failed == number:
            for account, first in zip(self._accounts, self._firsts):
                account.retried((first + self._n_tasks - 1) & 0xFFFF_FFFF)
        else:
            self._n_tasks += 1
        self._failed = None
        outcome = _STOPPED
        began_ns = perf_counter_ns()
        try:
            result = self._serial.call(number, function, args, kwargs)
            outcome = _RETURNED
            return result
        except Exception:
            outcome = _FAILED
            self._failed = number
            raise
        finally:
            duration_ns = perf_counter_ns() - began_ns
            for account, first in zip(self._accounts, self._firsts):
                account.note((first + self._n_tasks - 1) & 0xFFFF_FFFF, duration_ns, outcome)
                if not self._is_waited_for:
                    account.settle()


def noting(serial: _native.Serial) -> Any:
    """The same for the call that this thread is making, with its tasks noted."""
    writing = getattr(_current, "writing", None)
    if writing is None:
        return serial
    # What the tasks submit in turn is not the call's.
    _native.enter_accounts([])
    return _NotedSerial(serial, [entry.account for entry in writing.entries], writing.is_waited_for)


def _after_fork_in_child() -> None:
    _run._journals.clear()
    _current.writing = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# What is made of it


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0.0 else 0.0


def _call_of(number: int, entry: _Entry, now: float) -> JournalCall:
    began, first_began, ended, work, longest, _, counts, n_lost = entry.account.sums()
    wall = (now if ended is None else ended) - began
    workers = entry.account.workers()
    lasts = [heard for _, _, _, heard in workers]
    failed = counts[_FAILED] + n_lost
    speed_up = _ratio(work, wall)
    return JournalCall(
        call=number,
        kind=entry.kind,
        function=entry.name(),
        scheduler=entry.scheduler or "",
        workers=entry.workers,
        tasks=counts[_RETURNED] + failed,
        failed=failed,
        retried=max(counts[_RETRIED] + counts[_DIED] + counts[_TIMEOUT] - n_lost, 0),
        began=began,
        ended=ended,
        wall=wall,
        work=work,
        speed_up=speed_up,
        efficiency=speed_up / entry.workers,
        longest=longest,
        startup=0.0 if first_began is None else max(first_began - began, 0.0),
        tail=max(lasts) - min(lasts) if lasts else 0.0,
    )


_HEAD = (
    "call",
    "function",
    "scheduler",
    "tasks",
    "failed",
    "retried",
    "wall",
    "work",
    "speed-up",
    "workers",
    "efficiency",
    "longest",
    "startup",
    "tail",
)
_N_LEFT_ALIGNED = 3


def _row(call: JournalCall) -> tuple[str, ...]:
    return (
        f"{call.call} {call.kind}",
        call.function,
        call.scheduler,
        str(call.tasks),
        str(call.failed),
        str(call.retried),
        _seconds(call.wall) + ("" if call.ended is not None else "…"),
        _seconds(call.work),
        f"{call.speed_up:.2f}",
        str(call.workers),
        f"{call.efficiency:.0%}",
        _seconds(call.longest),
        _seconds(call.startup),
        _seconds(call.tail),
    )


def _total(calls: list[JournalCall], now: float) -> tuple[str, ...]:
    """All calls together: calls that were made at a time share their time."""
    last = max(now if call.ended is None else call.ended for call in calls)
    wall = last - min(call.began for call in calls)
    work = sum(call.work for call in calls)
    sums = (sum(call.tasks for call in calls), sum(call.failed for call in calls), sum(call.retried for call in calls))
    longest = max(call.longest for call in calls)
    tail = ("", "", _seconds(longest), "", "")
    return ("all", "", "", *map(str, sums), _seconds(wall), _seconds(work), f"{_ratio(work, wall):.2f}", *tail)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at < _N_LEFT_ALIGNED else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _seconds(seconds: float) -> str:
    """A time in three figures or so."""
    if seconds >= 99.95:
        return f"{seconds:.0f} s"
    if seconds >= 0.9995:
        return f"{seconds:.3g} s"
    if seconds >= 0.9995e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs" if seconds > 0.0 else "0"
