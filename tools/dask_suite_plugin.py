"""A plugin for pytest that puts `manyhands.dask.get` in the place of all of Dask's schedulers.

Dask's tests name schedulers as they like, ``scheduler="sync"`` most often: so it does not do to set a default one.
"""

from __future__ import annotations

from typing import Any

import dask
import dask.base
import dask.multiprocessing
import dask.threaded

import manyhands.dask

# Before any collection is imported, as each notes its scheduler then; and after the module has noted what it uses.
manyhands.dask._learn()


def get(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Compute on the engine, whatever else the test has asked for."""
    for name in ("pool", "func_loads", "func_dumps", "optimize_graph", "initializer"):
        kwargs.pop(name, None)
    n_calls[0] += 1
    return manyhands.dask.get(dsk, keys, **kwargs)


n_calls = [0]

for name in dask.base.named_schedulers:
    dask.base.named_schedulers[name] = get
dask.threaded.get = dask.multiprocessing.get = dask.get = get
dask.config.set(scheduler=get)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that it was us."""
    terminalreporter.write_line(
        f"{n_calls[0]} graphs ran on manyhands, scheduler {manyhands.config.get('scheduler')!r}"
    )
