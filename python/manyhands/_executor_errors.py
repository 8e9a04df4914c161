"""Errors of executors that are also those of `concurrent.futures`, so that programs written for it find them.

Imported when there is one: the classes bring `multiprocessing` along.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool

from manyhands import errors


class WorkerDied(errors.WorkerDied, BrokenProcessPool):
    """`manyhands.WorkerDied`, from an executor. Of those that go on, though its other name says broken."""

    __doc__ = errors.WorkerDied.__doc__


class WorkerOutOfMemory(errors.WorkerOutOfMemory, WorkerDied):
    """`manyhands.WorkerOutOfMemory`, from an executor."""

    __doc__ = errors.WorkerOutOfMemory.__doc__


def worker_died(error: errors.WorkerDied) -> WorkerDied:
    """The same error under both names."""
    if isinstance(error, WorkerDied):
        return error
    told = (WorkerOutOfMemory if isinstance(error, errors.WorkerOutOfMemory) else WorkerDied)(error.task)
    told.__dict__.update(error.__dict__)
    return told.with_traceback(error.__traceback__)


def broken(scheduler: str, why: str) -> BrokenProcessPool | BrokenThreadPool:
    """The error for an executor that takes no more calls."""
    kind = BrokenThreadPool if scheduler in ("threads", "synchronous") else BrokenProcessPool
    return kind(f"this executor takes no more calls: {why}")
