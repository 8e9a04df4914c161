"""The exceptions manyhands raises of its own accord.

Imported when one is needed, never at ``import manyhands``. All of them survive pickling, because a task may itself
use manyhands and fail with one of these inside a worker.
"""

from __future__ import annotations

import pickle

__all__ = [
    "CheckpointError",
    "CheckpointWarning",
    "ConfigError",
    "Error",
    "ForkError",
    "PicklingError",
    "RemoteTraceback",
    "TaskError",
    "UndeclaredRandomError",
    "UndeclaredRandomWarning",
    "WorkerDied",
    "WorkerOutOfMemory",
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


class CheckpointError(Error, OSError):
    """A checkpoint cannot be used, or not be written to any more.

    Where the system has said why, its number is in `errno`; the file's name is in `filename`. What has been stored
    before stays stored.

    Examples
    --------
    >>> error = CheckpointError("'study.mh' is in use by another run")
    >>> isinstance(error, OSError)
    True
    """

    # Whether waiting may help.
    is_in_use = False

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[object, ...]:
        known = {"errno": self.errno, "filename": self.filename, "is_in_use": self.is_in_use}
        return type(self), self.args, known


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged, or does not notice every change of a function.

    Examples
    --------
    >>> issubclass(CheckpointWarning, UserWarning)
    True
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
    """A task has drawn from a global generator of random numbers, and its call has no seed or cannot have it set.

    Issued once for each call, function and generator; shown, as other warnings, once for each line that makes the
    call. What is drawn so cannot be repeated. With a seed (``seed=1``) each task has a stream of its own, whatever runs
    it and in whatever order; the generators are not set from it where tasks in threads, or calls in several threads,
    share them. The setting ``random_misuse`` makes an error of it, or nothing.

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

    Raised once the task has ended a second worker as well, in which it ran alone, so that the blame is its own. The
    text says all that is known, why it probably happened, and what can be done.

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

    Attributes
    ----------
    signal_name : str or None
        The signal's name, such as ``"SIGSEGV"``.
    function : str or None
        The function that was called, with its module.
    file : str or None
        Where it is defined, if it is written in Python.
    line : int or None
        The line on which its definition begins.
    argument_sizes : dict of str to int
        About how many bytes each argument takes, by the parameter's name. Results of other tasks count as they
        travelled.
    peak_memory : int or None
        How many bytes of memory the worker had at most, shared memory included; or, where the system does not tell,
        when it was last looked at.
    stack : str
        Where the worker was when it crashed or was stopped: the Python stack, and from Python 3.14 on that of compiled
        code. Empty where a process cannot tell, as with SIGKILL and ``os._exit``.
    cause : str
        Why it ended, where more is known than how.
    was_running : bool
        Whether the worker was seen to run the task, rather than to have it next.
    earlier_pid : int or None
        The process id of the worker that the task had ended before.
    earlier_end : str
        How that one ended.

    Examples
    --------
    >>> error = WorkerDied("fit(fold=3)", worker_pid=4711, signal=11)
    >>> print(str(error).splitlines()[0])
    The worker process 4711 died while it ran the task fit(fold=3): killed by SIGSEGV (segmentation fault).
    >>> error.signal_name
    'SIGSEGV'
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
        self.function: str | None = None
        self.file: str | None = None
        self.line: int | None = None
        self.argument_sizes: dict[str, int] = {}
        self.peak_memory: int | None = None
        self.peak_is_exact = False
        self.stack = ""
        self.cause = ""
        self.was_running = True
        self.earlier_pid: int | None = None
        self.earlier_end = ""
        self.memory: int | None = None
        self.memory_limit: int | None = None

    @property
    def signal_name(self) -> str | None:
        """The name of the signal that killed the worker, such as ``"SIGSEGV"``; None where none did."""
        if self.signal is None:
            return None
        from manyhands._deaths import signal_name

        return signal_name(self.signal)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.task,), dict(self.__dict__))

    def __str__(self) -> str:
        from manyhands._deaths import story

        return story(self)


class WorkerOutOfMemory(WorkerDied, MemoryError):
    """A task needs more memory than there is, even while no other task runs.

    Its worker was stopped before the memory of the machine, of its control group or of the setting
    ``worker_memory_limit`` was used up; or the system's out-of-memory killer was faster. Then the task was run once
    more, while no other task ran, and it happened again.

    Attributes
    ----------
    memory : int or None
        How many bytes the worker took for itself when it was stopped; None where the system ended it.
    memory_limit : int or None
        How many bytes all workers could take together at that time.

    Examples
    --------
    >>> issubclass(WorkerOutOfMemory, MemoryError), issubclass(WorkerOutOfMemory, WorkerDied)
    (True, True)
    """
