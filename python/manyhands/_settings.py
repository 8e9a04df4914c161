"""What each setting may be: its default, and what is made of a value that someone gives.

`manyhands.config` reads this at ``import manyhands``, so it imports nothing that costs time.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from manyhands.errors import ConfigError

NUM_WORKERS_MAX = 10_000
#: How many levels a plan may have.
N_LEVELS_MAX = 6
CHUNKSIZE_MAX = 2**31 - 1
RETRIES_MAX = 10**6

SCHEDULERS = {
    "synchronous": "synchronous",
    "sync": "synchronous",
    "single-threaded": "synchronous",
    "threads": "threads",
    "threading": "threads",
    "processes": "processes",
    "multiprocessing": "processes",
    "fork": "fork",
    "multicore": "fork",
}
_SCHEDULERS_ACCEPTED = (
    '"processes" (or "multiprocessing"), "threads" (or "threading"), "fork" (or "multicore"), '
    '"synchronous" (or "sync", "single-threaded")'
)
# As the engine numbers them: `manyhands._relay`.
HEARINGS = {True: 0, "ordered": 2, False: 3}
MISUSES = {"ignore": 0, "warn": 4, "error": 8}
DEFAULTS: dict[str, Any] = {
    "scheduler": "processes",
    "num_workers": None,
    "chunksize": None,
    "idle_timeout": 300.0,
    "shared_memory_enabled": True,
    "shared_memory_threshold": 65536,
    "memory_limit": 0.6,
    "worker_memory_limit": "auto",
    "spill_directory": None,
    "seed": None,
    "relay": True,
    "random_misuse": "warn",
    "retries": 0,
    "retry_delay": 0.1,
    "timeout": None,
    "resources": {},
    "resources_per_worker": {},
    "progress": False,
}
# In the environment, where all is text.
YES_OR_NO = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
YES_OR_NO_ACCEPTED = ", ".join(YES_OR_NO)


def error(message: str) -> ConfigError:
    from manyhands.errors import ConfigError

    return ConfigError(message)


def did_you_mean(name: str, names: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name.lower(), names, 1)
    return f"; did you mean {close[0]!r}?" if close else "."


def scheduler(value: object, name: str) -> str | tuple[str, ...]:
    """One, or those of a plan's levels."""
    if isinstance(value, str):
        return _one_scheduler(value, name) if "," not in value else scheduler(value.split(","), name)
    if isinstance(value, (list, tuple)) and 1 <= len(value) <= N_LEVELS_MAX:
        plan = tuple(_one_scheduler(one.strip() if isinstance(one, str) else one, name) for one in value)
        return plan if len(plan) > 1 else plan[0]
    if isinstance(value, (list, tuple)):
        raise error(f"{name}={value!r} is not accepted: a plan has from 1 to {N_LEVELS_MAX} levels.")
    return _one_scheduler(value, name)


def _one_scheduler(value: object, name: str) -> str:
    known = SCHEDULERS.get(value.lower()) if isinstance(value, str) else None
    if known is None:
        hint = did_you_mean(value, list(SCHEDULERS)) if isinstance(value, str) else "."
        raise error(
            f"{name}={value!r} is not a scheduler{hint} Accepted: {_SCHEDULERS_ACCEPTED}; or a list of these, for "
            f"calls and those that their tasks make."
        )
    return known


def _integer(value: object, name: str, highest: int) -> int:
    index = None
    if not isinstance(value, bool):
        try:
            index = value.__index__()  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            index = None
    if index is None or not 1 <= index <= highest:
        raise error(f"{name}={value!r} is not accepted. Accepted: an integer from 1 to {highest}.")
    return int(index)


def num_workers(value: object, name: str) -> int | tuple[int | None, ...] | None:
    """One number, or those of a plan's levels."""
    if isinstance(value, (list, tuple)):
        if not 1 <= len(value) <= N_LEVELS_MAX:
            raise error(f"{name}={value!r} is not accepted: a plan has from 1 to {N_LEVELS_MAX} levels.")
        numbers = tuple(_one_num_workers(one, name) for one in value)
        return numbers if len(numbers) > 1 else numbers[0]
    return _one_num_workers(value, name)


def _one_num_workers(value: object, name: str) -> int | None:
    if value is None:
        return None
    try:
        return _integer(value, name, NUM_WORKERS_MAX)
    except ValueError as reason:
        raise error(f"{reason} Leave it out to use every CPU that this process may use.") from None


def _chunksize(value: object, name: str) -> int | None:
    if value is None:
        return None
    try:
        return _integer(value, name, CHUNKSIZE_MAX)
    except ValueError as reason:
        raise error(f"{reason} Leave it out to have batches follow the measured time of the tasks.") from None


def _idle_timeout(value: object, name: str) -> float | None:
    if value is None or value == "never":
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"):
        return float(value)
    raise error(
        f'{name}={value!r} is not accepted. Accepted: a number of seconds above 0, or "never" to keep idle workers '
        f"until the program ends."
    )


def _shared_memory_enabled(value: object, name: str) -> bool:
    if value is None:
        value = DEFAULTS["shared_memory_enabled"]
    if isinstance(value, bool):
        return value
    raise error(
        f"{name}={value!r} is not accepted. Accepted: True or False (in the environment: {YES_OR_NO_ACCEPTED})."
    )


def _shared_memory_threshold(value: object, name: str) -> int:
    if value is None:
        value = DEFAULTS["shared_memory_threshold"]
    return _integer(value, name, 2**62)


# A mistaken share, or a number without its unit, should not put everything on disk.
_MEMORY_LIMIT_MIN = 1024


def _memory_limit(value: object, name: str) -> int | float:
    """Bytes as an integer, a share as a float; infinity for no limit."""
    if value is None:
        value = DEFAULTS["memory_limit"]
    if isinstance(value, str):
        from manyhands._amounts import amount_of

        amount = amount_of(value)
    else:
        amount = value
    if isinstance(amount, float) and (0 < amount <= 1 or amount == float("inf")):
        return amount
    if isinstance(amount, int) and not isinstance(amount, bool) and _MEMORY_LIMIT_MIN <= amount <= 2**62:
        return amount
    raise error(
        f"{name}={value!r} is not accepted. Accepted: a number of bytes (an integer from 1024 on), a size such as "
        f'"4 GiB" or "500 MB", a share of the memory that is free (a number above 0.0 and up to 1.0, or "60%"), or '
        f'"unlimited".'
    )


def _worker_memory_limit(value: object, name: str) -> int | float | str:
    """The same, or ``"auto"``."""
    if value is None or (isinstance(value, str) and value.strip().lower() == "auto"):
        return "auto"
    try:
        return _memory_limit(value, name)
    except ValueError as reason:
        raise error(str(reason).replace("Accepted: ", 'Accepted: "auto", ')) from None


def _spill_directory(value: object, name: str) -> str | None:
    if value is None:
        return None
    try:
        path = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        path = b""
    if isinstance(path, str) and os.path.isdir(path):
        return os.path.abspath(path)
    raise error(f"{name}={value!r} is not accepted. Accepted: the path of a folder that exists.")


class Seed:
    """A configured seed."""

    __slots__ = ("n_submitted", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        # Each submitted call is a task of its own, and has the next number.
        self.n_submitted = 0


def _seed(value: object, name: str) -> Seed | None:
    if value is None:
        return None
    if all(hasattr(value, part) for part in ("entropy", "spawn_key", "pool_size", "n_children_spawned")):
        if value.pool_size != 4:  # type: ignore[attr-defined]
            raise error(f"{name}={value!r} is not accepted: a SeedSequence must have the usual pool_size, 4.")
        return Seed(value)
    single = _seed_part(value)
    if single is not None:
        return Seed(single)
    try:
        # Of what has no order, the seed would be another one in each process.
        is_sequence = hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, bytearray, dict))
        parts = tuple(_seed_part(part) for part in value) if is_sequence else ()  # type: ignore[attr-defined]
    except TypeError:
        parts = ()
    if not parts or None in parts:
        raise error(
            f"{name}={value!r} is not accepted. Accepted: an integer from 0 on, a sequence of such integers, or a "
            f"numpy.random.SeedSequence."
        )
    return Seed(parts)


def _seed_part(value: object) -> int | None:
    """The integer from 0 on that this is, if it is one."""
    if isinstance(value, bool):
        return None
    try:
        integer = value.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return None
    return int(integer) if integer >= 0 else None


def _retries(value: object, name: str) -> int:
    if value is None:
        return 0
    try:
        return 0 if value == 0 and not isinstance(value, (bool, float)) else _integer(value, name, RETRIES_MAX)
    except ValueError:
        raise error(
            f"{name}={value!r} is not accepted. Accepted: an integer from 0 to {RETRIES_MAX}: how often a task that "
            f"raised is run again."
        ) from None


def _retry_delay(value: object, name: str) -> float:
    if value is None:
        value = DEFAULTS["retry_delay"]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise error(
        f"{name}={value!r} is not accepted. Accepted: a number of seconds from 0 on: how long a task that raised rests "
        f"before it is run again."
    )


def _timeout(value: object, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return float(value)
    raise error(
        f'{name}={value!r} is not accepted. Accepted: a number of seconds above 0; float("inf") for tasks that may '
        f"take as long as they like."
    )


def _resources(value: object, name: str) -> dict[str, int]:
    from manyhands._resources import units_by_name

    return units_by_name(value, name)


def _relay(value: object, name: str) -> bool | str:
    if value is None or value == "live":
        return True
    if isinstance(value, bool) or value == "ordered":
        return value
    raise error(
        f'{name}={value!r} is not accepted. Accepted: True or "live" (what tasks print appears as it comes), "ordered" '
        f"(in the order of the serial run) or False (it does not appear)."
    )


def _progress(value: object, name: str) -> Any:
    if value is None or isinstance(value, bool):
        return bool(value)
    from manyhands import _progress

    if not _progress.is_accepted(value):
        raise error(f"{name}={value!r} is not accepted. Accepted: {_progress.ACCEPTED}.")
    return value


def _random_misuse(value: object, name: str) -> str:
    if value is None:
        value = DEFAULTS["random_misuse"]
    if isinstance(value, str) and value in MISUSES:
        return value
    raise error(f'{name}={value!r} is not accepted. Accepted: "warn", "error" or "ignore".')


CHECKS: dict[str, Callable[[object, str], Any]] = {
    "scheduler": scheduler,
    "num_workers": num_workers,
    "chunksize": _chunksize,
    "idle_timeout": _idle_timeout,
    "shared_memory_enabled": _shared_memory_enabled,
    "shared_memory_threshold": _shared_memory_threshold,
    "memory_limit": _memory_limit,
    "worker_memory_limit": _worker_memory_limit,
    "spill_directory": _spill_directory,
    "seed": _seed,
    "relay": _relay,
    "random_misuse": _random_misuse,
    "retries": _retries,
    "retry_delay": _retry_delay,
    "timeout": _timeout,
    "resources": _resources,
    "resources_per_worker": _resources,
    "progress": _progress,
}
