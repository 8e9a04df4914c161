"""The workers of executors: each has its own, as it has a number of them and a state of its own.

Threads are started for it, and end with it. Processes that nobody has set up for a purpose of his own (an initializer)
go on waiting for the next executor, as starting them takes longer than most of what they are started for.
"""

from __future__ import annotations

import os
import time
from _thread import RLock
from abc import ABC, abstractmethod
from weakref import WeakSet

from manyhands import _pools, config
from manyhands._native import Gathered, ProcessPool, ThreadPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from manyhands import _native

# How long to sleep between looks at workers that have something to do, at first and later.
_FIRST_PAUSE_S = 5e-5
_LAST_PAUSE_S = 5e-3


class Workers(ABC):
    """What the calls of one executor run on. Its workers are made with its first call."""

    scheduler = ""

    def __init__(self, n_workers: int, *, are_kept: bool) -> None:
        self.n_workers = n_workers
        self.are_kept = are_kept
        #: What tasks are to know of where they are; see `manyhands._plans`.
        self.level = 0
        #: What each call needs; None where resources have never been spoken of.
        self.needs: dict[str, int] | None = None
        #: Why there can be no more calls.
        self.broken: str | None = None
        #: Maps that ask for more items, now or as their results are consumed.
        self.fed: WeakSet[Gathered] = WeakSet()
        self._lock = RLock()
        _all.add(self)

    @abstractmethod
    def ready(self) -> Any:
        """The pool for the next call."""

    def is_at_rest(self) -> bool:
        """Whether nothing is under way."""
        return True

    def stop_feeding(self) -> None:
        """Have maps be what has been submitted of them. Waits for nobody."""
        for gathered in list(self.fed):
            gathered.stop_feeding()

    def cancel_waiting(self) -> None:  # noqa: B027 - nothing to do for most
        """Cancel what has not started."""

    def interrupt(self) -> None:  # noqa: B027 - nothing to do for most
        """End what is under way, as far as it can be ended."""

    def end(self) -> None:  # noqa: B027 - nothing to do for most
        """End the workers now; the next call finds new ones."""

    def hand_on(self) -> None:
        """Let go of the workers, which have nothing to do."""
        self.end()

    def forget(self) -> None:
        """In a forked process: leave the parent's workers alone."""
        self._lock = RLock()

    def wait(self) -> None:
        """Wait until nothing is under way. On Ctrl-C, nothing goes on."""
        pause_s = _FIRST_PAUSE_S
        try:
            while not self.is_at_rest():
                time.sleep(pause_s)
                pause_s = min(1.5 * pause_s, _LAST_PAUSE_S)
        except KeyboardInterrupt:
            self.interrupt()
            raise


class Here(Workers):
    """None: calls are made by whoever submits them."""

    scheduler = "synchronous"

    def ready(self) -> None:
        """Nothing."""


class Threads(Workers):
    """Threads of this process."""

    scheduler = "threads"
    _pool: ThreadPool | None = None

    def ready(self) -> ThreadPool:
        pool = self._pool
        if pool is None:
            with self._lock:
                pool = self._pool
                if pool is None:
                    _pools.register()
                    pool = ThreadPool(self.n_workers)
                    if self.needs:
                        from manyhands import _resources

                        amounts, supplies = _resources.for_pool(self.needs, by_worker=False)
                        pool.set_supplies(supplies)
                        pool = pool.at_level(self.level, amounts)
                    else:
                        pool = pool.at_level(self.level)
                    self._pool = pool
        return pool

    def is_at_rest(self) -> bool:
        return self._pool is None or self._pool.is_at_rest()

    def cancel_waiting(self) -> None:
        if self._pool is not None:
            self._pool.cancel_waiting()

    def interrupt(self) -> None:
        if self._pool is not None:
            self._pool.kill_workers()

    def end(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def forget(self) -> None:
        super().forget()
        pool, self._pool = self._pool, None
        _pools.leave_alone(pool)


class _Processes:
    """A pool of processes, and what it has been told."""

    def __init__(self, n_workers: int) -> None:
        _pools.register()
        self.n_reloads = _pools.n_reloads()
        self.idle_timeout: float | None = config.get("idle_timeout")
        self.n_workers = n_workers
        self.context = _pools.Context()
        self.settings: object = None
        self.pool = _pools.start_processes(n_workers, self.idle_timeout)

    def tell(self, level: int, needs: dict[str, int] | None) -> ProcessPool:
        """Have the workers know of the present settings, import path, folder, level of tasks and needs."""
        settings = config.generation()
        if settings is not self.settings:
            self.settings = settings
            _pools.share()
            idle_timeout = config.get("idle_timeout")
            if idle_timeout != self.idle_timeout:
                self.pool.set_idle_timeout(idle_timeout)
            self.idle_timeout = idle_timeout
        return self.context.of(self.pool, level, needs)

    def resize(self, n_workers: int) -> None:
        """Have so many workers."""
        if n_workers != self.n_workers:
            self.n_workers = n_workers
            self.pool.resize(n_workers)


class Processes(Workers):
    """Processes that are started."""

    scheduler = "processes"
    _processes: _Processes | None = None

    def ready(self) -> ProcessPool:
        processes = self._processes
        if processes is None or processes.n_reloads != _pools.n_reloads():
            processes = self._renewed()
        return processes.tell(self.level, self.needs)

    def _renewed(self) -> _Processes:
        with self._lock:
            processes = self._processes
            if processes is not None and processes.n_reloads != _pools.n_reloads():
                # They have loaded what is not so any more. They end what they were given.
                _let_end(_Ending(processes))
                processes = None
            if processes is None:
                processes = _taken_over(self.n_workers) if self.are_kept else None
                processes = self._processes = processes or _Processes(self.n_workers)
        return processes

    def is_at_rest(self) -> bool:
        return self._processes is None or self._processes.pool.is_at_rest()

    def cancel_waiting(self) -> None:
        if self._processes is not None:
            self._processes.pool.cancel_waiting()

    def interrupt(self) -> None:
        if self._processes is not None:
            self._processes.pool.kill_workers()

    def end(self) -> None:
        with self._lock:
            processes, self._processes = self._processes, None
        if processes is not None:
            processes.pool.shutdown()

    def hand_on(self) -> None:
        if not self.are_kept:
            self.end()
            return
        with self._lock:
            processes, self._processes = self._processes, None
        if processes is not None:
            _hand_on(processes)

    def forget(self) -> None:
        super().forget()
        processes, self._processes = self._processes, None
        _pools.leave_alone(processes)


class _Ending(Processes):
    """Processes that get no more calls."""

    def __init__(self, processes: _Processes) -> None:
        super().__init__(processes.n_workers, are_kept=False)
        self._processes = processes


class Forked(Workers):
    """A process forked for each call."""

    scheduler = "fork"

    def __init__(self, n_workers: int, *, are_kept: bool) -> None:
        from manyhands import _native

        super().__init__(n_workers, are_kept=are_kept)
        self._rota = _native.Rota()
        self._calls: list[_native.Pending] = []
        self._n_looked_through = 64

    def ready(self) -> _native.ForkPool:
        from manyhands import _forked

        return _forked.pool(self.n_workers, self.level, self._rota)

    def add(self, call: _native.Pending) -> None:
        """Keep count of a call under way."""
        self._calls.append(call)
        if len(self._calls) > self._n_looked_through:
            self.is_at_rest()
            self._n_looked_through = 64 + 2 * len(self._calls)

    def is_at_rest(self) -> bool:
        self._calls = [call for call in self._calls if not call.done()]
        return not self._calls

    def cancel_waiting(self) -> None:
        # The last first: the turn of one that ends goes to the next.
        for call in reversed(self._calls):
            call.cancel(False)

    def interrupt(self) -> None:
        for call in reversed(self._calls):
            call.interrupt()

    def end(self) -> None:
        self.interrupt()
        self._calls.clear()

    def forget(self) -> None:
        from manyhands import _native

        super().forget()
        _pools.leave_alone((self._rota, self._calls))
        self._rota, self._calls = _native.Rota(), []


KINDS: dict[str, type[Workers]] = {kind.scheduler: kind for kind in (Here, Threads, Processes, Forked)}

_all: WeakSet[Workers] = WeakSet()
#: Those whose executors are gone and which still have something to do.
_ending: list[Workers] = []
#: Processes without an executor.
_spare: _Processes | None = None
_lock = RLock()


def let_go(workers: Workers) -> None:
    """Have workers end once they have done what they were given."""
    sweep()
    if workers.is_at_rest():
        workers.hand_on()
    else:
        _let_end(workers)


def _let_end(workers: Workers) -> None:
    with _lock:
        _ending.append(workers)


def sweep() -> None:
    """Let go of workers that have nothing left to do."""
    if not _ending:
        return
    with _lock:
        done = [workers for workers in _ending if workers.is_at_rest()]
        _ending[:] = [workers for workers in _ending if workers not in done]
    for workers in done:
        workers.hand_on()


def _taken_over(n_workers: int) -> _Processes | None:
    global _spare
    with _lock:
        processes, _spare = _spare, None
    if processes is None:
        return None
    if processes.n_reloads != _pools.n_reloads():
        processes.pool.shutdown()
        return None
    processes.resize(n_workers)
    return processes


def _hand_on(processes: _Processes) -> None:
    """Keep processes for the next executor; as many as the largest of those without one."""
    global _spare
    with _lock:
        spare = _spare
        if spare is None or spare.n_workers <= processes.n_workers:
            _spare, processes = processes, spare  # type: ignore[assignment]
    if processes is not None:
        processes.pool.shutdown()


def end_all() -> None:
    """End the workers of all executors now; what is under way is cancelled."""
    global _spare
    with _lock:
        ending = list(_ending)
        _ending.clear()
        spare, _spare = _spare, None
    for workers in [*ending, *_all]:
        workers.end()
    if spare is not None:
        spare.pool.shutdown()


def finish() -> None:
    """At the end of the program: let everything that was submitted come to its end."""
    for workers in [*_ending, *_all]:
        workers.stop_feeding()
        workers.wait()
    end_all()


def _forget() -> None:
    """In a forked process."""
    global _spare, _lock
    _lock = RLock()
    for workers in list(_all):
        workers.forget()
    _pools.leave_alone((list(_ending), _spare))
    _ending.clear()
    _spare = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
