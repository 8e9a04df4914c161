"""What callers ask for about tasks that fail or take too long; imported once somebody does."""

from __future__ import annotations

import time

from manyhands import _settings, config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LEFT_OUT", "Faults", "is_meant", "resolve", "settled"]

#: Stands for the result of a call that is left out.
LEFT_OUT: Any = object()

#: No task rests for longer than this, in seconds, before it is tried again. The engine keeps to it too.
DELAY_MAX = 60.0

_ON_ERROR = ("raise", "return", "skip")


class Faults:
    """What holds for the tasks of one call. The engine reads its attributes."""

    __slots__ = ("on_error", "retries", "retries_timeouts", "retry_delay", "retry_on", "timeout")

    def __init__(
        self,
        on_error: str,
        retries: int,
        retry_on: tuple[type[Exception], ...] | None,
        retry_delay: float,
        timeout: float | None,
    ) -> None:
        self.on_error = on_error
        self.retries = retries
        # None stands for Exception, which needs no pickling.
        self.retry_on = retry_on
        self.retry_delay = retry_delay
        self.timeout = timeout
        self.retries_timeouts = retry_on is None or issubclass(TimeoutError, retry_on)

    def instead(self, error: Exception) -> Any:
        """What takes the place of the result of a call in this thread that failed for good."""
        return error if self.on_error == "return" else LEFT_OUT

    def marking(self) -> Faults:
        """The same, with `LEFT_OUT` in the places that are to be left out, for who has to count them."""
        if self.on_error != "skip":
            return self
        return Faults("mark", self.retries, self.retry_on, self.retry_delay, self.timeout)

    def pack(self) -> bytes:
        """The classes of `retry_on`, for workers."""
        from manyhands._pickling import dumps

        return dumps(self.retry_on)

    def tries_again(self, error: Exception, n_tries: int) -> bool:
        """Whether a call in this thread that raised is to be tried again; waits until it is time."""
        if n_tries > self.retries or not isinstance(error, self.retry_on or Exception):
            return False
        time.sleep(min(self.retry_delay * 2.0 ** min(n_tries - 1, 64), DELAY_MAX))
        return True


def is_meant(packed: bytes, error: BaseException) -> bool:
    """Whether an exception is one of those that a task is tried again for; in the worker."""
    from manyhands._pickling import loads

    return isinstance(error, loads(packed))


def settled(
    retries: object, retry_delay: object, timeout: object, *, is_nested: bool
) -> tuple[int, float, float | None]:
    """How often tasks of one call are tried again, after how many seconds, and how long they may run.

    Parameters
    ----------
    retries, retry_delay, timeout : optional
        The keywords of the call; None where it does not give them.
    is_nested : bool
        Whether a task makes the call. What is configured is meant for the program's own calls: those of a task are part
        of that task.

    Raises
    ------
    ConfigError
        For a wrong value, in the call or in any source.

    Examples
    --------
    >>> settled(2, None, None, is_nested=False)
    (2, 0.1, None)
    """
    state, values = config._state, []
    with state.lock:
        for key, given in (("retries", retries), ("retry_delay", retry_delay), ("timeout", timeout)):
            checked = None if given is None else _settings.CHECKS[key](given, key)
            configured = _settings.DEFAULTS[key] if is_nested else state.find(key)[0]
            is_forced = key in state.forced_keys and not is_nested
            values.append(configured if checked is None or is_forced else checked)
    limit = values[2]
    return values[0], values[1], None if limit == float("inf") else limit


def resolve(
    scheduler: str,
    is_nested: bool,
    on_error: object,
    retries: object,
    retry_on: object,
    retry_delay: object,
    timeout: object,
) -> Faults | None:
    """What holds for one call with these keywords; None if nothing in particular does.

    Parameters
    ----------
    scheduler : str
        Where its tasks run.
    is_nested : bool
        Whether a task makes the call, so that it is part of that task.
    on_error, retries, retry_on, retry_delay, timeout : object
        The keywords of the call; None for those it does not give.

    Raises
    ------
    ValueError, TypeError
        For what is not accepted; `ConfigError` where it could have been configured.
    """
    if on_error not in _ON_ERROR:
        raise ValueError(
            f'on_error={on_error!r} is not accepted. Accepted: "raise" (the call raises what the task raised), '
            f'"return" (the exception takes the place of the result), "skip" (the place is left out).'
        )
    classes = _classes(retry_on)
    n_retries, delay, limit = settled(retries, retry_delay, timeout, is_nested=is_nested)
    if limit is not None and scheduler in ("threads", "synchronous"):
        raise _no_limit(limit, scheduler, is_nested, is_given=timeout is not None)
    if on_error == "raise" and n_retries == 0 and limit is None:
        return None
    return Faults(str(on_error), n_retries, classes, delay, limit)


def _no_limit(limit: float, scheduler: str, is_nested: bool, is_given: bool) -> Exception:
    from manyhands.errors import ConfigError

    why = "a call of a task's own runs inside of that task, which" if is_nested else "a task that runs there"
    with config._state.lock:
        source = "" if is_given else f" ({config._state.find('timeout')[1]})"
    otherwise = "leave timeout out" if is_given else 'give this call timeout=float("inf")'
    return ConfigError(
        f'timeout={limit!r}{source} cannot be kept with scheduler="{scheduler}": {why} shares the process of the '
        f'program, and nobody can stop it from outside. Use scheduler="processes" or "fork", where the task\'s worker '
        f"process is ended, or {otherwise} and have the function itself look at the time."
    )


def _classes(retry_on: object) -> tuple[type[Exception], ...] | None:
    """The exceptions that a task is tried again for; None for all."""
    if retry_on is None or retry_on is Exception:
        return None
    classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    for cls in classes:
        if not isinstance(cls, type) or not issubclass(cls, Exception):
            hint = ""
            if isinstance(cls, type) and issubclass(cls, BaseException):
                hint = f" {cls.__name__} is not one: it says that the program, or the task, is to end."
            elif isinstance(cls, BaseException):
                hint = f" Its class is {type(cls).__name__}."
            raise TypeError(
                f"retry_on={retry_on!r} is not accepted: {cls!r} is not a class of exceptions that derive from "
                f"Exception.{hint} Accepted: such a class, or a tuple of them."
            )
    if not classes:
        raise TypeError(
            "retry_on=() is not accepted: it names no exception. Accepted: a class of exceptions that derive from "
            "Exception, or a tuple of them; with retries=0 no task is tried again."
        )
    return classes
