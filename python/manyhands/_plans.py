"""Plans: which scheduler the calls of tasks use, level by level, and how many CPUs a task may use.

A *level* is what a task knows of it, in one number, so that it costs nothing to pass on: from the lowest bit on

======== ====================================================================================================
14 bits  how many CPUs the task may use, at least 1
14 bits  how many tasks of this level run side by side in one process, at least 1
17 bits  for each level below, the next one first: 3 bits for its scheduler, counted from 1; 14 bits for its
         number of workers, 0 for as many as the task may use CPUs
======== ====================================================================================================
"""

from __future__ import annotations

from manyhands import _settings, config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # The scheduler and the number of workers of each level, None for a worker for each CPU.
    Levels: TypeAlias = tuple[tuple[str, int | None], ...]

_NAMES = ("synchronous", "threads", "processes", "fork")
_N_BITS = 14
_MASK = (1 << _N_BITS) - 1
_N_BITS_OF_LEVEL = 3 + _N_BITS


def pack(levels: Levels, n_cpus: int, n_beside: int) -> int:
    """The level of tasks that have these levels below them."""
    packed = 0
    for name, n_workers in reversed(levels):
        packed = (packed << _N_BITS | (n_workers or 0)) << 3 | _NAMES.index(name) + 1
    return (packed << _N_BITS | min(n_beside, _MASK)) << _N_BITS | min(n_cpus, _MASK)


def unpack(level: int) -> tuple[Levels, int, int]:
    """What was packed; for 0, what holds where nothing is known: all CPUs, and nothing beside."""
    if not level:
        return (), config.n_cpus(), 1
    packed = level >> 2 * _N_BITS
    levels: list[tuple[str, int | None]] = []
    while packed:
        levels.append((_NAMES[(packed & 7) - 1], (packed >> 3 & _MASK) or None))
        packed >>= _N_BITS_OF_LEVEL
    return tuple(levels), level & _MASK, level >> _N_BITS & _MASK


def has_levels(level: int) -> bool:
    """Whether calls of tasks of this level are to use anything but their own thread."""
    return level >> 2 * _N_BITS != 0


def n_cpus_of(level: int) -> int:
    """How many CPUs a task of this level may use."""
    return unpack(level)[1]


def levels_of(scheduler: str | tuple[str, ...], num_workers: Any) -> Levels:
    """The levels that two settings, already checked, stand for; numbers beyond the last scheduler say nothing."""
    names = (scheduler,) if isinstance(scheduler, str) else scheduler
    numbers = num_workers if isinstance(num_workers, tuple) else (num_workers,)
    numbers += (None,) * (len(names) - len(numbers))
    return tuple(zip(names, numbers))


def of_tasks(levels: Levels, n_workers: int, n_cpus: int, n_beside: int) -> int:
    """The level of the tasks of a call that runs as the first of these levels says, with so many workers."""
    name = levels[0][0]
    if name == "synchronous":
        n_workers = 1
    elif name == "threads":
        n_beside = min(n_beside * n_workers, _settings.NUM_WORKERS_MAX)
    else:
        n_beside = 1
    return pack(levels[1:], max(1, n_cpus // n_workers), n_beside)


def checked(scheduler: object, num_workers: object) -> tuple[Any, Any]:
    """Two keywords of a call, each None where it is not given.

    Raises
    ------
    ConfigError
        For a value that is not accepted.
    """
    names = None if scheduler is None else _settings.scheduler(scheduler, "scheduler")
    numbers = _settings.num_workers(num_workers, "num_workers")
    require_levels(names, numbers)
    return names, numbers


def require_levels(scheduler: object, num_workers: object) -> None:
    """There are no more numbers than schedulers where both are given together."""
    if scheduler is not None and isinstance(num_workers, tuple):
        n_levels = len(scheduler) if isinstance(scheduler, tuple) else 1
        if len(num_workers) > n_levels:
            raise _settings.error(
                f"num_workers={list(num_workers)} has {len(num_workers)} levels, and scheduler={scheduler!r} has "
                f"{n_levels}. Give a scheduler for each level, such as scheduler=['processes', 'threads']."
            )


def outermost(scheduler: object, num_workers: object) -> tuple[str, int, int]:
    """The scheduler, the number of workers and the level of the tasks of a call that is no task's, by its keywords."""
    names, numbers = checked(scheduler, num_workers)
    forced, state = config.forced(), config._state
    with state.lock:
        if names is None or "scheduler" in forced:
            names = state.find("scheduler")[0]
        if numbers is None or "num_workers" in forced:
            numbers = state.find("num_workers")[0]
    levels = levels_of(names, numbers)
    name, n_workers = levels[0][0], levels[0][1] or config.n_cpus()
    return name, n_workers, of_tasks(levels, n_workers, config.n_cpus(), 1)


def nested(
    level: int, scheduler: object, num_workers: object, chunksize: object
) -> tuple[str, int, int, int | None, int] | None:
    """Where a call runs that a task of this level makes; None for its own thread, below the plan.

    Returns
    -------
    tuple or None
        The scheduler, the number of workers for this call and for all calls of this level in this process, the chunk
        size, and the level of the call's tasks.

    Raises
    ------
    ConfigError
        For a wrong keyword of the call.
    """
    levels, n_cpus, n_beside = unpack(level)
    size = config.resolve_plan(None, None, chunksize)[2]
    forced = config.forced()
    names, numbers = checked(scheduler, num_workers)
    if names is not None and "scheduler" not in forced:
        # What is configured, or said further up, is for other calls.
        levels = levels_of(names, None)
    if not levels:
        return None
    if numbers is not None and "num_workers" not in forced:
        given = numbers if isinstance(numbers, tuple) else (numbers,)
        kept = tuple(n for _, n in levels)[len(given) :]
        levels = levels_of(tuple(name for name, _ in levels), given + kept)
    name, n_wanted = levels[0]
    n_workers = n_wanted or n_cpus
    n_all = n_workers if name != "processes" else min(n_workers * n_beside, _settings.NUM_WORKERS_MAX)
    return name, n_workers, n_all, size, of_tasks(levels, n_workers, n_cpus, n_beside)
