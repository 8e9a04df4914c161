"""The exceptions that callers get for tasks that failed; called by the engine."""

from __future__ import annotations

from manyhands._native import describe_call as _describe_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def raised(exc: BaseException, task: str, key: str | None, scheduler: str, n_tries: int = 1) -> BaseException:
    """The exception of a task that ran in this process, with a note that names the task."""
    from manyhands._failures import annotate

    annotate(exc, task, key, scheduler, n_tries)
    return exc


def raised_in_worker(packed: bytes, task: str, key: str | None, scheduler: str, n_tries: int = 1) -> BaseException:
    """The exception of a task that ran in a worker, rebuilt."""
    from manyhands._failures import annotate, unpack

    try:
        exc = unpack(packed)
    except Exception as error:
        from manyhands.errors import TaskError

        text = packed.decode(errors="replace")
        message = f"The task {task} failed in a worker, and its exception did not arrive whole: {text[:2000]}"
        exc = TaskError(message, text=text)
        exc.__cause__ = error
    annotate(exc, task, key, scheduler, n_tries)
    return exc


def out_of_time(task: str, key: str | None, scheduler: str, limit: float, n_tries: int) -> BaseException:
    """The error for a task that ran for longer than it may."""
    from manyhands._failures import annotate

    named = "" if key is None else f" (key {key!r})"
    error = TimeoutError(
        f"The task {task}{named} ran for longer than its limit, timeout={limit:g} s, and its worker process was ended."
    )
    annotate(error, task, key, scheduler, n_tries)
    return error


def not_left_out(exc: BaseException) -> BaseException:
    """The error of a task that was to be left out and cannot be."""
    from manyhands._failures import _add_note

    _add_note(
        exc,
        'With on_error="skip", failed tasks are left out of the list, tuple, set or dict that holds them. This one '
        'stands by itself, or in a place that cannot be empty: on_error="return" puts the exception there.',
    )
    return exc


def not_sent(exc: BaseException, task: str) -> BaseException:
    """An error met while a task was made ready for its way to a worker."""
    from manyhands._failures import _add_note

    _add_note(exc, f"While preparing the task {task} for a worker process.")
    return exc


def worker_died(
    task: str, key: str | None, called: tuple[Any, Any, Any] | None, facts: dict[str, Any]
) -> BaseException:
    """The error for a task under which workers died."""
    from manyhands._deaths import error_for

    return error_for(task, key, called, facts)


def no_room(
    task: str,
    key: str | None,
    scheduler: str,
    n_bytes: int,
    n_bytes_waiting: int,
    n_bytes_max: int,
    directory: str,
    reason: str,
) -> BaseException:
    """The error for a result that has room neither in memory nor on disk."""
    from manyhands._deaths import size_text as _size
    from manyhands._failures import annotate

    error = MemoryError(
        f"There is no room for the result of the task {task}, which takes {_size(n_bytes)}. Results that wait for "
        f"their readers take {_size(n_bytes_waiting)} of memory, of {_size(n_bytes_max)} that they may take (the "
        f"setting memory_limit); and this one could not be written to {directory!r} (the setting spill_directory): "
        f"{reason}. Make room there, choose another directory, or raise the limit."
    )
    annotate(error, task, key, scheduler)
    return error


def no_workers(text: str) -> BaseException:
    """The error for a job that cannot run because no worker can be started."""
    from manyhands import _pools
    from manyhands.errors import Error

    _pools.forget_command()
    return Error(f'{text}\nUntil this is mended, scheduler="threads" or "synchronous" will run the same program.')


def cancelled() -> BaseException:
    """The error for a job that was cancelled, or whose pool was shut down."""
    from concurrent.futures import CancelledError

    return CancelledError()


def lost(task: str, key: str | None) -> BaseException:
    """The error for a task that failed without leaving its exception, which would be a defect."""
    from manyhands.errors import Error

    return Error(f"The task {task} (key {key!r}) failed and its exception is lost. Please report this.")


def describe_call(
    function: Callable[..., Any], args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None, index: int | None
) -> str:
    """A short form of one call of a map: ``fit(3), item 17``; without an index, of a call by itself."""
    text = f"{getattr(function, '__name__', function)!s}(…)" if args is None else _describe_call(function, args, kwargs)
    return text if index is None else f"{text}, item {index}"
