"""The exceptions manyhands raises of its own accord.

Imported when one is needed, never at ``import manyhands``. All of them survive pickling, because a task may itself
use manyhands and fail with one of these inside a worker.
"""

from __future__ import annotations

import pickle

__all__ = [
    "ConfigError",
    "Error",
    "ForkError",
    "PicklingError",
    "RemoteTraceback",
    "TaskError",
    "UndeclaredRandomError",
    "UndeclaredRandomWarning",
    "WorkerDied",
]


class Error(Exception):
    """The base of every exception that manyhands defines.

    Examples
    --------
    >>> issubclass(WorkerDied, Error)
    True
    """


class ConfigError(Error, ValueError):
    """A setting has a name or a value that is not accepted.

    The message lists what is accepted, and says where the setting came from.

    Examples
    --------
    >>> from manyhands import config
    >>> config.set(scheduler="thread")
    Traceback (most recent call last):
    ...
    manyhands.errors.ConfigError: scheduler='thread' is not a scheduler; did you mean 'threads'? ...
    """


class ForkError(Error):
    """The process cannot be forked, or not without a risk of waiting for ever.

    Raised for ``scheduler="fork"`` before anything has run. The message names what stands against it.

    Examples
    --------
    >>> raise ForkError("CUDA has been used in this process")
    Traceback (most recent call last):
    ...
    manyhands.errors.ForkError: CUDA has been used in this process
    """


class PicklingError(Error, pickle.PicklingError):
    """A function, an argument or a result cannot be pickled, so it cannot pass between processes.

    Parameters
    ----------
    message : str
        The whole text shown to the user.
    what : str
        Which object it was: ``"argument 'model'"``, ``"result"``.
    path : str
        Where inside it the culprit sits: ``".cache['lock']"``; empty when it is the object itself.
    reason : str
        Why the culprit cannot be pickled.

    Examples
    --------
    >>> error = PicklingError("text", "argument 'model'", ".lock", "cannot pickle '_thread.lock' object")
    >>> error.path
    '.lock'
    """

    def __init__(self, message: str, what: str = "", path: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.what = what
        self.path = path
        self.reason = reason


class TaskError(Error):
    """A task failed with an exception that could not be rebuilt in this process.

    Parameters
    ----------
    message : str
        The type and the text of the original exception, and why it could not be rebuilt.
    type_name : str
        Module and qualified name of the original exception's type.
    text : str
        What ``str()`` of the original exception gave.
    traceback : str
        The traceback, as formatted where the task ran.

    Examples
    --------
    >>> TaskError("shop.OutOfStock: none left", "shop.OutOfStock", "none left").type_name
    'shop.OutOfStock'
    """

    def __init__(self, message: str, type_name: str = "", text: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback


class UndeclaredRandomWarning(UserWarning):
    """A task has drawn from a global generator of random numbers, and its call has no seed.

    Shown once for each function and line that makes the call. What is drawn so cannot be repeated. With a seed
    (``seed=1``) each task has a stream of its own, whatever runs it and in whatever order. The setting
    ``random_misuse`` makes an error of it, or nothing.

    Examples
    --------
    >>> import warnings
    >>> warnings.simplefilter("error", UndeclaredRandomWarning)  # the program stops at the first
    >>> warnings.filters.pop(0)[0]
    'error'
    """


class UndeclaredRandomError(Error):
    """The same as an exception of the task, with ``random_misuse="error"``.

    Examples
    --------
    >>> issubclass(UndeclaredRandomError, Error)
    True
    """


class RemoteTraceback(Exception):
    """The traceback of a task's exception in the worker; shown as the cause of that exception.

    Parameters
    ----------
    text : str
        The traceback, as formatted in the worker.

    Examples
    --------
    >>> print(RemoteTraceback("ValueError: no convergence"))
    <BLANKLINE>
    ValueError: no convergence
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        # The interpreter prints "manyhands.errors.RemoteTraceback: " before this; the text starts on its own line.
        return "\n" + self.text.rstrip("\n")


class WorkerDied(Error):
    """The worker process that ran a task ended before the task did.

    Raised once the task has ended a second worker as well, in which it ran alone, so that the blame is its own.

    Parameters
    ----------
    task : str
        A short form of the task's call, such as ``fit(fold=3)``.
    key : str, optional
        The task's key.
    worker_pid : int, optional
        The process id of the worker.
    exitcode : int, optional
        Its exit code, where it exited.
    signal : int, optional
        The signal that killed it, where one did.
    output : str
        The last lines that it wrote to its standard output and error.
    retried : bool
        Whether the task was run again, alone, before this was raised.

    Examples
    --------
    >>> error = WorkerDied("fit(fold=3)", worker_pid=4711, signal=11)
    >>> print(str(error).splitlines()[0])
    The worker process 4711 died while it ran the task fit(fold=3): killed by SIGSEGV (segmentation fault).
    """

    def __init__(
        self,
        task: str,
        key: str | None = None,
        worker_pid: int | None = None,
        exitcode: int | None = None,
        signal: int | None = None,
        output: str = "",
        retried: bool = True,
    ) -> None:
        super().__init__(task)
        self.task = task
        self.key = key
        self.worker_pid = worker_pid
        self.exitcode = exitcode
        self.signal = signal
        self.output = output
        self.retried = retried

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.task,), dict(self.__dict__))

    def __str__(self) -> str:
        how, advice = _cause_of_death(self.exitcode, self.signal)
        worker = "A worker process" if self.worker_pid is None else f"The worker process {self.worker_pid}"
        key = "" if self.key is None else f" (key {self.key!r})"
        lines = [f"{worker} died while it ran the task {self.task}{key}: {how}."]
        if self.retried:
            lines.append("The task was run once more, alone in a fresh worker, and that worker died too.")
        written = self.output.rstrip().splitlines()
        if written:
            lines.append("The last lines that the worker wrote:")
            lines.extend(f"  | {line}" for line in written)
        else:
            lines.append("The worker wrote nothing to its output before that.")
        lines.append(advice)
        return "\n".join(lines)


_CRASHED = (
    "Compiled code crashed, most likely in an extension module that the task calls; with "
    'scheduler="synchronous" under "python -X faulthandler" the same call shows where.'
)
_OUT_OF_MEMORY = (
    "The system kills processes like this when memory runs out: use fewer workers (num_workers), or give each task "
    "less data. If somebody ended the process on purpose, run the program again."
)
_EXITED = (
    "Something in the task ended the process, as os._exit() or a failing C library does; tasks must return or raise. "
    'With scheduler="synchronous" the same call can be watched in a debugger.'
)
_SIGNAL_WORDS = {
    "SIGABRT": "aborted",
    "SIGBUS": "bus error",
    "SIGFPE": "arithmetic error",
    "SIGILL": "illegal instruction",
    "SIGSEGV": "segmentation fault",
    "SIGTERM": "terminated",
    "SIGXCPU": "CPU time limit exceeded",
}
_CRASHES = frozenset(["SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV"])


def _cause_of_death(exitcode: int | None, signal_number: int | None) -> tuple[str, str]:
    """How a process ended, in words, and what its user can do about it."""
    if signal_number is not None:
        import signal

        try:
            name = signal.Signals(signal_number).name
        except ValueError:
            name = f"signal {signal_number}"
        words = f" ({_SIGNAL_WORDS[name]})" if name in _SIGNAL_WORDS else ""
        return f"killed by {name}{words}", _CRASHED if name in _CRASHES else _OUT_OF_MEMORY
    if exitcode is not None:
        return f"it exited with code {exitcode}", _EXITED
    return "it is gone, and the system does not say how it ended", _OUT_OF_MEMORY
