"""Resources: what tasks need while they run, such as devices, licences or connections, and how much there is of it."""

from __future__ import annotations

import os
from threading import local

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
# What blocks of this thread say.
_blocks = local()


class resources:
    """Have the tasks of all calls in a block need resources while they run.

    The same as the keyword `resources` of those calls, and the way to say it to `submit`, whose keywords are the
    function's. It acts on the thread that enters it.

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
    """

    def __init__(self, **amounts: int) -> None:
        self._amounts = units_by_name(amounts, "resources")
        self._outer: list[dict[str, int] | None] = []

    def __enter__(self) -> None:
        if _native.in_task() or _worker.is_worker:
            refuse_nested(self._amounts)
        self._outer.append(in_block())
        _blocks.amounts = self._amounts

    def __exit__(self, *exc_info: object) -> None:
        _blocks.amounts = self._outer.pop()

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


def in_block() -> dict[str, int] | None:
    """What the innermost block of this thread says."""
    return getattr(_blocks, "amounts", None)


def needed(given: Mapping[str, int] | None, scheduler: str) -> dict[str, int]:
    """What each task of a call needs.

    Raises
    ------
    ConfigError
        For what is not accepted, and for what can never be had.
    """
    amounts = in_block() if given is None else units_by_name(given, "resources")
    amounts = {name: amount for name, amount in (amounts or {}).items() if amount}
    if not amounts:
        return amounts
    there = supplied()
    for name, amount in amounts.items():
        if amount > there.get(name, 0):
            known = ", ".join(f"{name}: {n_units}" for name, n_units in there.items()) or "none"
            raise _settings.error(
                f"resources={amounts!r} can never be had: a task asks for {amount} of {name!r}, and there "
                f"{'are' if there.get(name, 0) != 1 else 'is'} {there.get(name, 0)}. Configured or found: {known}. Say "
                f"how much there is by mh.config.set(resources={{{name!r}: {amount}}}) or MANYHANDS_RESOURCES="
                f"{name}={amount}."
            )
    if scheduler == "fork":
        raise _settings.error(
            f'resources={amounts!r}: with scheduler="fork" each call has workers of its own, and no account is kept of '
            f'resources. Use scheduler="processes".'
        )
    return amounts


def refuse_nested(given: Mapping[str, int] | None) -> None:
    """In a task, calls cannot ask for resources: nobody keeps one account of those of all workers."""
    if given:
        raise _settings.error(
            f"resources={dict(given)!r} in a call that a task makes: resources are the outermost call's to ask for, as "
            f"workers know nothing of each other's."
        )


def supplied() -> dict[str, int]:
    """How much there is of each resource."""
    there: dict[str, int] = dict(config.get("resources"))
    there.setdefault(DEVICES, len(_devices_found()))
    return {name: n_units for name, n_units in there.items() if n_units}


def _devices_found() -> list[str]:
    """The devices that this process sees."""
    text = os.environ.get(_VARIABLE)
    if text is not None:
        return [device.strip() for device in text.split(",") if device.strip() not in ("", "-1")]
    try:
        files = os.listdir("/dev")
    except OSError:
        return []
    numbers = (name.removeprefix(_DEVICE_FILES) for name in files if name.startswith(_DEVICE_FILES))
    return sorted((number for number in numbers if number.isdigit()), key=int)


def for_pool(amounts: dict[str, int], *, by_worker: bool) -> tuple[list[tuple[int, int]], list[tuple[int, bool]]]:
    """The same for the engine: what is needed, as places and amounts; and what there is at each place."""
    there = supplied()
    for name in [*there, *amounts]:
        _places.setdefault(name, len(_places))
    needs = [(_places[name], amount) for name, amount in amounts.items()]
    return needs, [(there.get(name, 0), by_worker and name == DEVICES) for name in _places]


def devices_of_workers(amounts: dict[str, int]) -> tuple[list[str], int] | None:
    """The devices that are to be shared among workers, and how many each is to see; None where they see all."""
    n_devices = supplied().get(DEVICES, 0)
    if not n_devices:
        return None
    found = _devices_found()
    # Beyond those found, by number: there may be a driver that knows them.
    devices = [found[at] if at < len(found) else str(at) for at in range(n_devices)]
    return devices, amounts.get(DEVICES, 1)


def see_devices(devices: tuple[list[str], int] | None, number: int) -> None:
    """In a worker process with this number: see its own devices."""
    if devices is not None:
        names, n_seen = devices
        own = [names[(number * n_seen + at) % len(names)] for at in range(min(n_seen, len(names)))]
        os.environ[_VARIABLE] = ",".join(own)
