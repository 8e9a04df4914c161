"""Looks into checkpoints: what `map`, `stream`, `compute` and `persist` keep in a file with ``checkpoint=``.

>>> import manyhands as mh
>>> import tempfile, os
>>> path = os.path.join(tempfile.mkdtemp(), "study.mh")
>>> mh.map(pow, [2, 3], [5, 2], checkpoint=path, scheduler="synchronous")
[32, 9]
>>> with mh.checkpoint.open(path) as study:
...     [(task.function, task.argument, task.result()) for task in study]
[('pow', '2, 5', 32), ('pow', '3, 2', 9)]
"""

from __future__ import annotations

import os
import time

from manyhands import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

__all__ = ["Checkpoint", "Salvage", "Task", "open", "salvage"]

_PAUSE_S = 0.05


class Task:
    """A task that has ended, as a checkpoint has it.

    Attributes
    ----------
    function : str
        The name of what was called; empty in files of format 1.
    index : int
        Its place in the map, or in the graph.
    argument : str
        What it was called with, in short: numbers and texts as they are, ``…`` for anything else.
    duration : float
        How long it took, in seconds; not a number where that is not known.
    finished : float
        When it ended, in seconds since 1970.
    n_bytes : int
        How much its result takes in the file.
    error : tuple of (str, str), optional
        The type and the text of the exception that it raised; None if it has returned.

    Examples
    --------
    >>> import manyhands as mh, tempfile
    >>> path = tempfile.mkdtemp() + "/study.mh"
    >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
    >>> task = mh.checkpoint.open(path).tasks[0]
    >>> task.function, task.index, task.argument, task.error
    ('abs', 0, '-7', None)
    """

    __slots__ = ("_checkpoint", "_number", "argument", "duration", "error", "finished", "function", "index", "n_bytes")

    def __init__(self, checkpoint: Checkpoint, number: int, row: tuple[Any, ...]) -> None:
        self._checkpoint = checkpoint
        self._number = number
        (
            self.function,
            self.index,
            self.argument,
            self.duration,
            self.finished,
            self.n_bytes,
            self.error,
        ) = row

    def result(self) -> Any:
        """What the task has returned, read from the file.

        Returns
        -------
        object
            Another one each time.

        Raises
        ------
        CheckpointError
            If it has failed, or if its result is damaged.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
        >>> mh.checkpoint.open(path).tasks[0].result()
        7
        """
        from manyhands.errors import CheckpointError

        if self.error is not None:
            raise CheckpointError(f"{self!r} has no result: it has failed")
        found = self._checkpoint._open().result(self._number)
        if found is None:
            raise CheckpointError(f"the result of {self!r} in {self._checkpoint.path!r} is damaged")
        return found[0]

    def __repr__(self) -> str:
        how = f"in {self.duration:.3g} s" if self.error is None else f"failed: {self.error[0]}"
        return f"<Task {self.index}: {self.function or 'task'}({self.argument}), {how}>"


class Checkpoint:
    """What a file holds; made by `open`.

    Iterating over it gives the tasks that have ended so far. Nothing is changed in the file, and a run that is writing
    to it goes on.

    Parameters
    ----------
    path : str or path
        The file.

    Attributes
    ----------
    path : str
        Its name.
    format_version : int
        Which version of the format it has.

    Examples
    --------
    >>> import manyhands as mh, tempfile
    >>> path = tempfile.mkdtemp() + "/study.mh"
    >>> _ = mh.map(abs, [-7, -8], checkpoint=path, scheduler="synchronous")
    >>> with mh.checkpoint.open(path) as study:
    ...     {task.argument: task.result() for task in study}
    {'-7': 7, '-8': 8}
    """

    def __init__(self, path: Any) -> None:
        from manyhands._checkpointing import path_of

        self.path = path_of(path)
        self._reader: Any = _native.CheckpointReader(self.path)
        self.format_version: int = self._reader.version
        self._tasks: list[Task] = []
        self.refresh()
        parts, _ = self._reader.damage()
        if parts:
            import warnings

            from manyhands.errors import CheckpointWarning

            warnings.warn(
                f"The checkpoint {self.path!r} is damaged in {len(parts)} place(s): what is whole can be read, and "
                "manyhands.checkpoint.salvage copies it into a new file.",
                CheckpointWarning,
                stacklevel=3,
            )

    def refresh(self) -> int:
        """Read what has come since the last time.

        Returns
        -------
        int
            How many tasks are new.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
        >>> study = mh.checkpoint.open(path)
        >>> _ = mh.map(abs, [-7, -8], checkpoint=path, scheduler="synchronous")
        >>> study.refresh()
        1
        """
        n_before = len(self._tasks)
        if self._open().refresh() > n_before:
            rows = self._reader.tasks(n_before)
            self._tasks += [Task(self, n_before + k, row) for k, row in enumerate(rows)]
        return len(self._tasks) - n_before

    def _open(self) -> Any:
        if self._reader is None:
            raise ValueError(f"the checkpoint {self.path!r} has been closed")
        return self._reader

    @property
    def tasks(self) -> list[Task]:
        """The tasks that have ended, in that order, as far as they have been read; one that was tried again, again.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
        >>> mh.checkpoint.open(path).tasks[0].argument
        '-7'
        """
        return list(self._tasks)

    @property
    def failures(self) -> list[Task]:
        """The tasks that have failed and have not been tried again since.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
        >>> mh.checkpoint.open(path).failures
        []
        """
        return [task for task in self._tasks if task.error is not None and self._open().is_latest(task._number)]

    @property
    def is_running(self) -> bool:
        """Whether a run is writing to the file.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
        >>> mh.checkpoint.open(path).is_running
        False
        """
        return bool(self._open().is_in_use())

    @property
    def damage(self) -> list[tuple[int, int]]:
        """The parts of the file that cannot be read: where each begins and how many bytes it has.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
        >>> mh.checkpoint.open(path).damage
        []
        """
        parts: list[tuple[int, int]] = self._open().damage()[0]
        return parts

    def check(self) -> list[Task]:
        """Read all results; the tasks whose results are damaged.

        Returns
        -------
        list of Task
            Empty if all is well, as far as there are tasks: `damage` has what cannot even be read as such.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
        >>> mh.checkpoint.open(path).check()
        []
        """
        reader = self._open()
        return [task for task in self._tasks if not reader.is_whole(task._number)]

    def follow(self) -> Iterator[Task]:
        """The tasks that have ended, and then each that ends, until no run is writing any more.

        Yields
        ------
        Task
            As soon as it is in the file.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7, -8], checkpoint=path, scheduler="synchronous")
        >>> [task.result() for task in mh.checkpoint.open(path).follow()]
        [7, 8]
        """
        n_seen = 0
        while True:
            is_running = self.is_running
            self.refresh()
            while n_seen < len(self._tasks):
                yield self._tasks[n_seen]
                n_seen += 1
            if not is_running:
                return
            time.sleep(_PAUSE_S)

    def close(self) -> None:
        """Let go of the file.

        Examples
        --------
        >>> import manyhands as mh, tempfile
        >>> path = tempfile.mkdtemp() + "/study.mh"
        >>> _ = mh.map(abs, [-7], checkpoint=path, scheduler="synchronous")
        >>> study = mh.checkpoint.open(path)
        >>> study.close()
        """
        self._reader = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        if self._reader is None:
            return f"<Checkpoint {self.path!r}, closed>"
        n_failed = len(self.failures)
        parts = [f"{sum(task.error is None for task in self._tasks)} results"]
        parts += [f"{n_failed} failed"] if n_failed else []
        parts += [f"{len(self.damage)} damaged parts"] if self.damage else []
        parts += ["a run is writing"] if self.is_running else []
        return f"<Checkpoint {self.path!r}: {', '.join(parts)}>"


def open(path: str | os.PathLike[str]) -> Checkpoint:  # noqa: A001 - as with other files
    """Look into a checkpoint, also while a run is writing to it.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    Checkpoint
        Can be used in a ``with`` statement.

    Raises
    ------
    CheckpointError
        If there is no such file, or it is no checkpoint.

    Warns
    -----
    CheckpointWarning
        If parts of it are damaged.

    Examples
    --------
    >>> import manyhands as mh, tempfile
    >>> path = tempfile.mkdtemp() + "/study.mh"
    >>> _ = mh.map(abs, [-7, -8], checkpoint=path, scheduler="synchronous")
    >>> len(mh.checkpoint.open(path))
    2
    """
    return Checkpoint(path)


class Salvage:
    """What `salvage` has copied, and what it could not.

    Attributes
    ----------
    n_results : int
        How many results are in the new file.
    n_damaged : int
        How many results were damaged.
    damage : list of (int, int)
        The parts of the old file that could not be read at all: where each begins and how many bytes it has.
    n_bytes_tail : int
        How many bytes there were behind the last task: a write that was cut short, as a rule.

    Examples
    --------
    >>> Salvage(120, 1, [(16384, 512)], 0)
    <Salvage: 120 results saved, 1 damaged, 512 bytes unreadable>
    """

    __slots__ = ("damage", "n_bytes_tail", "n_damaged", "n_results")

    def __init__(self, n_results: int, n_damaged: int, damage: list[tuple[int, int]], n_bytes_tail: int) -> None:
        self.n_results = n_results
        self.n_damaged = n_damaged
        self.damage = damage
        self.n_bytes_tail = n_bytes_tail

    def __repr__(self) -> str:
        n_bytes = sum(length for _, length in self.damage) + self.n_bytes_tail
        return f"<Salvage: {self.n_results} results saved, {self.n_damaged} damaged, {n_bytes} bytes unreadable>"


def salvage(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Salvage:
    """Copy what is whole in a damaged checkpoint into a new one; the old one stays as it is.

    Parameters
    ----------
    source : str or path
        The damaged file.
    target : str or path
        The new file, which must not be there yet.

    Returns
    -------
    Salvage
        What was saved and what was not.

    Raises
    ------
    CheckpointError
        If `source` is no checkpoint, or both of its headers are damaged; or if `target` is there, or cannot be written.

    Examples
    --------
    >>> import manyhands as mh, tempfile
    >>> path = tempfile.mkdtemp() + "/study.mh"
    >>> _ = mh.map(abs, [-7, -8], checkpoint=path, scheduler="synchronous")
    >>> mh.checkpoint.salvage(path, path + ".saved")
    <Salvage: 2 results saved, 0 damaged, 0 bytes unreadable>
    """
    from manyhands._checkpointing import path_of

    return Salvage(*_native.salvage_checkpoint(path_of(source), path_of(target)))
