"""Plain Python functions in parallel: lazy graphs, maps and futures on a Rust engine.

You say what may run in parallel; one line, or one environment variable, says where: in this thread, in threads, in
processes, in forked ones. The code never changes.

>>> import manyhands as mh
>>> @mh.delayed
... def square(x):
...     return x * x
>>> mh.compute([square(i) for i in range(4)])
([0, 1, 4, 9],)
>>> mh.map(abs, [-1, 2, -3])
[1, 2, 3]

Only what every program needs is imported here; the rest comes when it is first used.
"""

from __future__ import annotations

from manyhands import config
from manyhands._native import Delayed, cpu_count
from manyhands._native import __version__ as __version__
from manyhands._pools import shutdown
from manyhands._run import compute, map, persist, stream, submit  # noqa: A004 - the builtins' meaning, in parallel
from manyhands.delayed import delayed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from manyhands import checkpoint, random, shared
    from manyhands import dask as dask
    from manyhands import distributed as distributed
    from manyhands._blas import blas_threads
    from manyhands._executor import Executor
    from manyhands._future import Future
    from manyhands._journal import Journal, journal
    from manyhands._progress import ProgressBar
    from manyhands._resources import resources
    from manyhands.errors import (
        CheckpointError,
        CheckpointWarning,
        ConfigError,
        Error,
        ForkError,
        PicklingError,
        RemoteTraceback,
        TaskError,
        UndeclaredRandomError,
        UndeclaredRandomWarning,
        WorkerDied,
        WorkerOutOfMemory,
    )
    from manyhands.graph import Graph

__all__ = [
    "CheckpointError",
    "CheckpointWarning",
    "ConfigError",
    "Delayed",
    "Error",
    "Executor",
    "ForkError",
    "Future",
    "Graph",
    "Journal",
    "PicklingError",
    "ProgressBar",
    "RemoteTraceback",
    "TaskError",
    "UndeclaredRandomError",
    "UndeclaredRandomWarning",
    "WorkerDied",
    "WorkerOutOfMemory",
    "blas_threads",
    "checkpoint",
    "compute",
    "config",
    "cpu_count",
    "delayed",
    "journal",
    "map",
    "persist",
    "random",
    "resources",
    "shared",
    "shutdown",
    "stream",
    "submit",
]

# Not all of them are in __all__: after ``from manyhands import *``, ``dask`` should still be Dask.
_LAZY_MODULES = ("checkpoint", "dask", "distributed", "random", "shared")
_LAZY = {
    "CheckpointError": "manyhands.errors",
    "CheckpointWarning": "manyhands.errors",
    "ConfigError": "manyhands.errors",
    "Error": "manyhands.errors",
    "Executor": "manyhands._executor",
    "ForkError": "manyhands.errors",
    "Future": "manyhands._future",
    "Graph": "manyhands.graph",
    "Journal": "manyhands._journal",
    "PicklingError": "manyhands.errors",
    "ProgressBar": "manyhands._progress",
    "RemoteTraceback": "manyhands.errors",
    "TaskError": "manyhands.errors",
    "UndeclaredRandomError": "manyhands.errors",
    "UndeclaredRandomWarning": "manyhands.errors",
    "WorkerDied": "manyhands.errors",
    "WorkerOutOfMemory": "manyhands.errors",
    "blas_threads": "manyhands._blas",
    "journal": "manyhands._journal",
    "resources": "manyhands._resources",
}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None and name not in _LAZY_MODULES:
        raise AttributeError(f"module 'manyhands' has no attribute {name!r}")
    from importlib import import_module

    if module is None:
        return import_module(f"manyhands.{name}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
