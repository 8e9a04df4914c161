"""Resources: what tasks need while they run, such as devices, licences or connections, and how much there is of it."""

from __future__ import annotations

import os

from manyhands import _native, _settings, _worker, config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: The resource whose units are devices, of which each worker process sees its own.
DEVICES = "gpu"
_VARIABLE = "CUDA_VISIBLE_DEVICES"
_DEVICE_FILES = "nvidia"

#: The most units of a resource.
NUM_UNITS_MAX = 2**31 - 1

# The place of each resource in the engine; they are never taken away.
_places: dict[str, int] = {}
# How much there was of each when it was told last.
_told: dict[str, int] = {}


class resources:
    """Have tasks need resources while they run: those of all calls in a block, and those that are written down in it.

    The same as the keyword `resources` of those calls and of `delayed`, and the way to say it to `submit`, whose
    keywords are the function's. Calls of Delayed functions in the block, and operators and attributes of their results,
    need so much wherever they are computed, side by side with others. It acts on the thread that enters it.

    Parameters
    ----------
    **amounts : int
        How many units of each resource a task needs.

    Raises
    ------
    ConfigError
        For amounts that are none; inside of a task, whose calls cannot ask for resources; and from the calls, where
        there is less of a resource than one task needs.

    Examples
    --------
    >>> import manyhands as mh
    >>> with mh.config.set(resources={"licence": 2}), mh.resources(licence=1):
    ...     future = mh.submit(abs, -1)
    >>> future.result()
    1

    A graph in which some tasks need something:

    >>> loaded = [mh.delayed(abs)(i) for i in range(4)]
    >>> with mh.resources(licence=1):
    ...     solved = [mh.delayed(pow)(one, 2) for one in loaded]
    >>> with mh.config.set(resources={"licence": 2}):
    ...     mh.compute(mh.delayed(sum)(solved))
    (14,)
    """

    def __init__(self, **amounts: int) -> None:
        self._amounts = units_by_name(amounts, "resources")
        self._outer: list[dict[str, int] | None] = []

    def __enter__(self) -> None:
        if _native.in_task() or _worker.is_worker:
            refuse_nested(self._amounts)
        self._outer.append(_native._enter_needs(self._amounts))

    def __exit__(self, *exc_info: object) -> None:
        _native._enter_needs(self._outer.pop())

    def __repr__(self) -> str:
        return f"resources({', '.join(f'{name}={amount}' for name, amount in self._amounts.items())})"


def units_by_name(value: object, name: str) -> dict[str, int]:
    """Numbers of units by the resources' names."""
    if value is None:
        return {}
    given: Any = value
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        given = {key.strip(): int(text) if text.strip().isdigit() else text for key, _, text in parts}
    if hasattr(given, "items"):
        found = dict(given.items())
        if all(isinstance(key, str) and key and _is_units(amount) for key, amount in found.items()):
            return {key: int(amount) for key, amount in found.items()}
    raise _settings.error(
        f"{name}={value!r} is not accepted. Accepted: whole numbers of units, from 0 on, by name, such as "
        f'{{"gpu": 1}} (in the environment: gpu=1,licence=2).'
    )


def _is_units(value: object) -> bool:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return False
    return bool(0 <= value.__index__() <= NUM_UNITS_MAX)


def needed(given: Mapping[str, int] | None, scheduler: str) -> dict[str, int]:
    """What each task of a call needs.

    Raises
    ------
    ConfigError
        For what is not accepted, and for what can never be had.
    """
    amounts = _native._needs_in_block() if given is None else units_by_name(given, "resources")
    amounts = {name: amount for name, amount in (amounts or {}).items() if amount}
    if amounts:
        _require(amounts, scheduler, "a task")
    return amounts


def promised(given: Mapping[str, int] | None, scheduler: str) -> dict[str, int]:
    """What a call needs that may be sent to its pool later: until then there is as much as there is now.

    Raises
    ------
    ConfigError
        As for `needed`.
    """
    amounts = needed(given, scheduler)
    if amounts:
        _note_supplies(amounts)
    return amounts


def _require(amounts: dict[str, int], scheduler: str, task: str) -> None:
    """An error, unless a task can have so much."""
    there = supplied()
    for name, amount in amounts.items():
        if amount > there.get(name, 0):
            known = ", ".join(f"{name}: {n_units}" for name, n_units in there.items()) or "none"
            raise _settings.error(
                f"resources={amounts!r} can never be had: {task} asks for {amount} of {name!r}, and there "
                f"{'are' if there.get(name, 0) != 1 else 'is'} {there.get(name, 0)}. Configured or found: {known}. Say "
                f"how much there is by mh.config.set(resources={{{name!r}: {amount}}}) or MANYHANDS_RESOURCES="
                f"{name}={amount}."
            )
    if scheduler == "fork":
        raise _settings.error(
            f'resources={amounts!r} of {task}: with scheduler="fork" each call has workers of its own, and no account '
            f'is kept of resources. Use scheduler="processes".'
        )


class Asking:
    """A call of `compute` or `persist`, for those tasks of its graph that say themselves what they need.

    Parameters
    ----------
    scheduler : str
        Where it runs.
    num_workers : int
        With how many workers.
    level : int, optional
        The level of its tasks; None for a call that a task makes.
    amounts : dict of int, optional
        What the call asks for, for all of its tasks.
    """

    __slots__ = ("_amounts", "_level", "_num_workers", "_scheduler")

    def __init__(self, scheduler: str, num_workers: int, level: int | None, amounts: dict[str, int] | None) -> None:
        self._scheduler = scheduler
        self._num_workers = num_workers
        self._level = level
        self._amounts = amounts or {}

    def for_graph(self, asked: list[tuple[dict[str, int], str]]) -> tuple[Any, list[list[tuple[int, int, int]]]]:
        """Where a graph runs in which tasks need so much.

        Parameters
        ----------
        asked : list of tuple
            What tasks need, each different set of amounts once, with a text for the first task that needs it.

        Returns
        -------
        tuple
            The pool, or the level of tasks in this thread. For each of `asked`, with what the call asks for: places of
            resources, how many units of each, and how many each worker has where it has its own.

        Raises
        ------
        ConfigError
            For what can never be had, and where resources cannot be asked for.
        """
        for amounts, task in asked:
            if amounts and self._level is None:
                raise _nested_error(amounts, f"of the task {task}, ")
            if amounts:
                _require(amounts, self._scheduler, f"the task {task}")
        wanted = [{**self._amounts, **amounts} for amounts, _ in asked]
        if self._level is None or self._scheduler == "synchronous":
            return self._level, [[] for _ in wanted]
        # A worker process has the same devices for all tasks: as many as the one needs that needs the most.
        largest: dict[str, int] = {}
        for amounts in wanted:
            for name, amount in amounts.items():
                largest[name] = max(amount, largest.get(name, 0))
        from manyhands import _pools

        pool = _pools.pool(self._scheduler, self._num_workers, self._level, largest)
        return pool, [[(_places[name], n, largest[name]) for name, n in amounts.items()] for amounts in wanted]


def refuse_nested(given: Mapping[str, int] | None) -> None:
    """In a task, calls cannot ask for resources: nobody keeps one account of those of all workers."""
    if given:
        raise _nested_error(given)


def _nested_error(amounts: Mapping[str, int], of_whom: str = "") -> Exception:
    return _settings.error(
        f"resources={dict(amounts)!r} {of_whom}in a call that a task makes: resources are the outermost call's to ask "
        f"for, as workers know nothing of each other's."
    )


def supplied() -> dict[str, int]:
    """How much there is of each resource."""
    return {name: n_units for name, n_units in _configured().items() if n_units}


def _configured() -> dict[str, int]:
    """The same, with those of which it is said that there is nothing."""
    there: dict[str, int] = dict(config.get("resources"))
    per_worker = config.get("resources_per_worker")
    if per_worker:
        n_workers = config.resolve()[1]
        for name, n_units in per_worker.items():
            there.setdefault(name, min(n_units * n_workers, NUM_UNITS_MAX))
    there.setdefault(DEVICES, len(_devices_found()))
    return there


def _devices_found() -> list[str]:
    """The devices that this process sees, as it would name them in its turn."""
    text = os.environ.get(_VARIABLE)
    if text is not None:
        devices = []
        for device in map(str.strip, text.split(",")):
            # Whatever comes after the first that is none is not seen either.
            if not (device.isdigit() or device.startswith(("GPU-", "MIG-"))):
                break
            devices.append(device)
        return devices
    try:
        files = os.listdir("/dev")
    except OSError:
        return []
    numbers = [name.removeprefix(_DEVICE_FILES) for name in files if name.startswith(_DEVICE_FILES)]
    # The files have the numbers of the machine's devices. CUDA counts those that are there, from 0 on.
    return [str(number) for number in range(sum(map(str.isdigit, numbers)))]


def for_pool(amounts: dict[str, int], *, by_worker: bool) -> tuple[list[tuple[int, int]], list[tuple[int, bool]]]:
    """The same for the engine: what is needed, as places and amounts; and what there is at each place."""
    _note_supplies(amounts)
    needs = [(_places[name], amount) for name, amount in amounts.items()]
    return needs, [(_told.get(name, 0), by_worker and name == DEVICES) for name in _places]


def _note_supplies(amounts: dict[str, int]) -> None:
    there = _configured()
    for name in [*there, *amounts]:
        _places.setdefault(name, len(_places))
    # Of what is no longer configured there is as much as there was: calls that were made with it may wait for it.
    _told.update(there)


def devices_of_workers(amounts: dict[str, int]) -> tuple[list[str], int] | None:
    """The devices that are to be shared among workers, and how many each is to see; None where they see all."""
    n_devices = supplied().get(DEVICES, 0)
    found = _devices_found()
    if not n_devices or (not found and _VARIABLE in os.environ):
        return None
    # Where more are configured than there are, they are shared. None found: there may be a driver that knows them.
    devices = [found[at % len(found)] if found else str(at) for at in range(n_devices)]
    return devices, amounts.get(DEVICES, 1)


def see_devices(devices: tuple[list[str], int] | None, number: int) -> None:
    """In a worker process with this number: see its own devices, in the order in which the engine gives them out.

    Workers that have the same devices begin with different ones, which are those of tasks that need less.
    """
    if devices is not None:
        names, n_seen = devices
        n_own = min(n_seen, len(names))
        first = number * n_own
        turn = first // len(names)
        own = [names[(first + (turn + at) % n_own) % len(names)] for at in range(n_own)]
        os.environ[_VARIABLE] = ",".join(dict.fromkeys(own))
