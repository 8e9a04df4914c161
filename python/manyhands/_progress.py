"""How far calls have come, for the person who waits: bars in the terminal, in notebooks, by tqdm or rich.

Imported once somebody wants to see something. The engine keeps the counts in any case; a thread of this module asks for
them ten times a second, while something is shown. Where things appear is `manyhands._progress_views`' business.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import RLock, _local, allocate_lock, get_ident, start_new_thread
from _weakref import ref
from functools import partial

from manyhands import _native, _settings, config
from manyhands._faults import Faults
from manyhands._progress_rate import Rate
from manyhands._run import is_nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Any, TypeVar

    from manyhands._progress_views import View
    from manyhands._promises import Future

    T = TypeVar("T")
    Kind = TypeVar("Kind", bound="Track")

__all__ = [
    "Progress",
    "ProgressBar",
    "StreamTrack",
    "Track",
    "begin",
    "begin_stream",
    "is_accepted",
    "submitting",
    "watching",
]

#: How often what is shown is brought up to date, in seconds.
INTERVAL_S = 0.1

#: How long the end of a call waits for what is shown of it at the moment, in seconds. Then the thread that shows it is
#: to end it.
END_PATIENCE_S = 10.0

_KINDS = ("auto", "bar", "notebook", "tqdm", "rich")


class Progress:
    """How far a call has come at one moment. Callables that show progress are given one.

    Attributes
    ----------
    name : str
        What is computed: the name of the function, or of the call.
    total : int or None
        How many tasks there are, where that is known.
    done : int
        How many have ended, `failed` and `stored` among them.
    failed : int
        How many have failed for good.
    retried : int
        How often a task that failed was run again.
    died : int
        How many workers have died under tasks of the call.
    stored : int
        How many had their results in the checkpoint.
    running : int
        How many workers are busy with it.
    elapsed : float
        Seconds since it began.
    rate : float or None
        Tasks per second of late; None while there is nothing to go by.
    remaining : float or None
        How many seconds it will take, at that rate.
    status : str
        ``"running"``, ``"done"``, ``"failed"``, ``"interrupted"`` or ``"closed"``; the last call has another one than
        ``"running"``.
    """

    __slots__ = (
        "died",
        "done",
        "elapsed",
        "failed",
        "name",
        "rate",
        "remaining",
        "retried",
        "running",
        "status",
        "stored",
        "total",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.total: int | None = None
        self.done = self.failed = self.retried = self.died = self.stored = self.running = 0
        self.elapsed = 0.0
        self.rate: float | None = None
        self.remaining: float | None = None
        self.status = "running"

    def __repr__(self) -> str:
        total = "?" if self.total is None else self.total
        return f"<Progress of {self.name}: {self.done}/{total}, {self.status}>"


class ProgressBar:
    """Shows how far calls have come: in a ``with`` block those of all threads; as ``progress=`` those it is given to.

    Parameters
    ----------
    kind : str, object or callable, default "auto"
        ``"auto"``: a bar in the terminal or in the notebook. ``"tqdm"`` and ``"rich"``: by these packages, where they
        are installed. A class such as ``tqdm.tqdm``, an instance of one, or a ``rich.progress.Progress``: by that. Any
        other callable is called about ten times a second with an object that has the attributes `name`, `total`,
        `done`, `failed`, `retried`, `died`, `stored`, `running`, `elapsed`, `rate`, `remaining` and `status`; the last
        time, with a `status` other than ``"running"``.
    file : file object, optional
        Where to write, by default standard error. A file that is no terminal is given a line now and then. Where no
        file is given and standard error is no terminal, nothing is written, unless this is a notebook.
    minimum : float, default 0.0
        Calls that take less than so many seconds are not shown.
    description : str, optional
        What to call it, instead of the name of the function.

    Raises
    ------
    ConfigError
        If `kind` is not accepted.

    Notes
    -----
    Calls that tasks make are part of their tasks, and not shown. Showing costs the tasks nothing: the engine keeps
    these counts in any case.

    Examples
    --------
    >>> import manyhands as mh
    >>> with mh.ProgressBar():
    ...     squares = mh.map(pow, range(4), [2] * 4)

    >>> seen = []
    >>> mh.map(abs, [-1, 2], progress=mh.ProgressBar(lambda progress: seen.append(progress.done)))
    [1, 2]
    >>> seen[-1]
    2
    """

    def __init__(
        self, kind: Any = "auto", *, file: Any = None, minimum: float = 0.0, description: str | None = None
    ) -> None:
        if kind is True:
            kind = "auto"
        if isinstance(kind, ProgressBar) or not is_accepted(kind):
            raise _settings.error(f"ProgressBar({kind!r}) is not accepted. Accepted: {ACCEPTED}.")
        if isinstance(minimum, bool) or not isinstance(minimum, (int, float)) or not minimum >= 0:
            raise _settings.error(f"minimum={minimum!r} is not accepted. Accepted: a number of seconds from 0 on.")
        if file is not None and not callable(getattr(file, "write", None)):
            raise _settings.error(f"file={file!r} is not accepted. Accepted: an object with a method `write`.")
        self.kind = kind
        self.file = file
        self.minimum = float(minimum)
        self.description = description
        self._blocks: list[config.set | None] = []

    def __repr__(self) -> str:
        return f"ProgressBar({self.kind!r})"

    def __enter__(self) -> ProgressBar:
        block = None
        if not is_nested():
            # Settings are those of the process: a task in a thread would have the calls of the program shown.
            block = config.set(progress=self)
            block.__enter__()
        self._blocks.append(block)
        return self

    def __exit__(self, *exc_info: object) -> None:
        block = self._blocks.pop()
        if block is not None:
            block.__exit__(*exc_info)
        if not self._blocks:
            _end_submitted(self)


ACCEPTED = (
    'True or "auto" (a bar in the terminal or notebook), "tqdm", "rich", False, a ProgressBar, a class or an object of '
    "tqdm's or rich's, or a callable that is given how far it has come"
)


def is_accepted(value: object) -> bool:
    """Whether something may be given as `progress`."""
    if isinstance(value, str):
        return value in _KINDS
    return isinstance(value, (bool, ProgressBar)) or callable(value) or _is_tqdm(value) or _is_rich(value)


def _is_tqdm(value: object) -> bool:
    return callable(getattr(value, "refresh", None)) and hasattr(value, "n") and hasattr(value, "total")


def _is_rich(value: object) -> bool:
    return callable(getattr(value, "add_task", None)) and callable(getattr(value, "update", None))


# One call


class Track:
    """One call that is shown; a context that ends with it."""

    def __init__(self, name: str, view: View, minimum_s: float, n_all: int | None) -> None:
        self.tally = _native.Tally()
        self.minimum_s = minimum_s
        self._view: View | None = view
        self._n_all = n_all
        # All tasks of a graph are known from the beginning.
        self._is_graph = False
        self._began_s = time.monotonic()
        self._rate = Rate()
        self._progress = Progress(name)
        self._has_begun = False
        self._is_over = False
        # Who shows it has this lock; it is shown by anybody's code, so that nobody waits for it for ever.
        self._busy = allocate_lock()
        self._showing: int | None = None
        self._ending: str | None = None
        # Of calls in the calling thread: an enumeration of their arguments, which knows how far it is.
        self._numbered: Any = None
        # Whether somebody waits for the last item that was taken: of a stream, its result may have been given out.
        self._is_waiting = True
        self._n_failed = 0
        self._n_retried = 0
        self._stored: Callable[[], int] | None = None
        self._source: Callable[[], tuple[int, bool, int, int, int, int, int]] | None = None

    # What calls say

    def number(self, items: Iterable[T]) -> Iterator[tuple[int, T]]:
        """The items of a call that runs in the calling thread, numbered; how many were taken is how far it is."""
        self._numbered = numbered = enumerate(items)
        return numbered

    def counting(self, faults: Faults | None) -> Faults | None:
        """The same rules, for a call in the calling thread; what fails and is tried again is counted."""
        return None if faults is None else _Counting(faults, self)

    def stored(self, n_stored: Callable[[], int]) -> None:
        """So many tasks have their results in a checkpoint."""
        self._stored = n_stored

    # What is shown

    def look(self, status: str = "running") -> Progress:
        """How far it has come."""
        progress = self._progress
        n_stored = 0 if self._stored is None else self._stored()
        total, n_ended, is_open = self._n_all, 0, True
        numbered = self._numbered
        if numbered is not None:
            # An enumeration's state is the number that is next.
            n_taken = numbered.__reduce__()[1][1]
            n_running = min(n_taken, 1) if status != "done" and self._is_waiting else 0
            n_ended = n_taken - n_running
            progress.running = n_running
            progress.failed = self._n_failed + (status == "failed")
            progress.retried = self._n_retried
            is_open = status != "done"
            n_tasks = n_taken
        else:
            counts = self.tally.counts() if self._source is None else self._source()
            n_tasks, is_open, n_ended, *rest = counts or (0, True, 0, 0, 0, 0, 0)
            progress.failed, progress.retried, progress.running, progress.died = rest
        if status == "done" and not n_tasks:
            # All that there was to do was stored.
            total = n_stored if total is None else total
        elif status == "done" or (not is_open and (status == "running" or self._is_graph)):
            total = n_tasks + n_stored
        elif total is None:
            # Of what was cut off nobody knows any more how much there would have been.
            total = progress.total
        progress.stored = n_stored
        progress.done = n_ended + n_stored
        progress.total = total
        progress.status = status
        if status != "running":
            progress.running = 0
        self._estimate(n_ended)
        return progress

    def _estimate(self, n_ended: int) -> None:
        progress = self._progress
        progress.elapsed = elapsed_s = time.monotonic() - self._began_s
        # Stored results take no time, and say nothing about the rest.
        self._rate.update(elapsed_s, n_ended)
        progress.rate = self._rate.rate(elapsed_s)
        if progress.total is None or progress.status != "running":
            progress.remaining = None
        else:
            progress.remaining = self._rate.remaining(elapsed_s, progress.total - progress.done)

    def draw(self) -> None:
        """Show how far it is now, unless somebody is just doing so."""
        if self._take(0.0):
            try:
                if not self._is_over:
                    self._draw()
            finally:
                self._leave()

    def _draw(self) -> None:
        how = self.how_it_ended()
        if how is not None:
            if self._is_free():
                self._finish(how)
            return
        progress = self.look()
        if progress.elapsed >= self.minimum_s and (self._has_begun or self._is_free()):
            self._show(progress)

    def _is_free(self) -> bool:
        """Whether it may begin or end: as nobody waits for that, it need not break a line of the program's."""
        return self._view is None or not self._view.is_amid_line()

    def _take(self, patience_s: float) -> bool:
        """Have this thread show it, if no other is still at it after so many seconds."""
        # Code that is run to show it may end it: the outer call does that.
        if self._showing == get_ident() or not self._busy.acquire(True, patience_s):
            return False
        self._showing = get_ident()
        return True

    def _leave(self) -> None:
        while True:
            try:
                if self._ending is not None:
                    self._finish(self._ending)
            finally:
                self._showing = None
                self._busy.release()
            # Who ends it may have given up waiting for us just now.
            if self._ending is None or self._is_over or not self._take(0.0):
                return

    def how_it_ended(self) -> str | None:
        """How it has ended, where nobody will say so."""
        return None

    def _show(self, progress: Progress) -> None:
        view = self._view
        if view is None:
            return
        try:
            if not self._has_begun:
                self._has_begun = True
                view.begin(progress)
            view.draw(progress)
        except BaseException as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Show nothing any more: whatever is wrong with where it is shown, the call is more important."""
        view, self._view = self._view, None
        if view is not None:
            _close(view)
            _warn(view, error)

    def _finish(self, status: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        with _lock:
            if self in _tracks:
                _tracks.remove(self)
        progress = self.look(status)
        # What was shown must not keep the results of the call.
        self._numbered = self._stored = self._source = None
        if progress.elapsed >= self.minimum_s or self._has_begun:
            self._show(progress)
        view, self._view = self._view, None
        if view is None:
            return
        try:
            if self._has_begun:
                view.end(progress)
        except BaseException as error:
            _close(view)
            _warn(view, error)
        else:
            _close(view)

    def start(self) -> None:
        """Begin to be shown."""
        if self._view is not None:
            try:
                self._view.open()
            except BaseException as error:
                self._give_up(error)
        _add(self)

    def end(self, how: str) -> None:
        """The call has ended, in this way."""
        if self._ending is None:
            self._ending = how
        if self._take(END_PATIENCE_S):
            self._leave()

    def forget(self) -> None:
        """In a forked process: it is the parent's."""
        self._is_over = True
        self._busy, self._showing = allocate_lock(), None
        self._view = self._numbered = self._stored = self._source = None

    def __enter__(self) -> Track:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.end(_status_of(kind))


def _close(view: View) -> None:
    try:
        view.close()
    except BaseException as error:
        _warn(view, error)


def _warn(view: View, error: BaseException) -> None:
    """Say that something is no longer shown, and why; only what a person does ends more than that."""
    if isinstance(error, KeyboardInterrupt) and _is_persons():
        raise error
    if isinstance(error, (OSError, ValueError)) and not view.is_outspoken:
        return  # a terminal that is gone, a file that is closed
    text = f"progress is no longer shown: {type(error).__name__}: {error}"
    try:
        import warnings

        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except Exception:
        # The program's filters make warnings errors; that of the call is another matter.
        _say(text)


def _is_persons() -> bool:
    """Whether this is the thread that has Ctrl-C raised in it."""
    import threading

    return threading.current_thread() is threading.main_thread()


def _say(text: str) -> None:
    from contextlib import suppress

    with suppress(Exception):  # maybe there is nobody to hear it
        sys.stderr.write(f"manyhands: {text}\n")


def _status_of(kind: type[BaseException] | None) -> str:
    if kind is None:
        return "done"
    if issubclass(kind, GeneratorExit):
        return "closed"
    return "failed" if issubclass(kind, Exception) else "interrupted"


class StreamTrack(Track):
    """One stream, which may be dropped without a word."""

    _over: Any = None

    def over(self, results: Generator[T, None, None]) -> Generator[T, None, None]:
        """The results of a stream in the calling thread; the track ends with them."""
        following = self._follow(results)
        # One that has not begun is dropped without anything of it being run.
        self._over = ref(following)
        return following

    def _follow(self, results: Generator[T, None, None]) -> Generator[T, None, None]:
        with self:
            yield from self.given_out(results)

    def given_out(self, results: Generator[T, None, None]) -> Generator[T, None, None]:
        """The same results; while the consumer has one, nothing is running."""
        try:
            for result in results:
                self._is_waiting = False
                yield result
                self._is_waiting = True
        finally:
            results.close()

    def how_it_ended(self) -> str | None:
        if self._over is not None:
            return "closed" if self._over() is None else None
        if self._numbered is not None or not self.tally.is_over():
            return None
        # It was dropped, and what was submitted has been cancelled; or all has been computed, and nobody has asked for
        # the last result yet. Either way nothing more will happen.
        counts = self.tally.counts()
        n_tasks, is_open, n_ended, n_failed, *_ = counts or (0, True, 0, 0)
        if n_failed and n_ended < n_tasks:
            return "failed"
        return "closed" if is_open or n_ended < n_tasks or self.tally.is_cut() else "done"


class _Counting(Faults):
    """Rules for the tasks of a call in this thread, that count what they decide."""

    __slots__ = ("_track",)

    def __init__(self, faults: Faults, track: Track) -> None:
        super().__init__(faults.on_error, faults.retries, faults.retry_on, faults.retry_delay, faults.timeout)
        self._track = track

    def instead(self, error: Exception) -> Any:
        self._track._n_failed += 1
        return super().instead(error)

    def tries_again(self, error: Exception, n_tries: int) -> bool:
        tries_again = super().tries_again(error, n_tries)
        self._track._n_retried += tries_again
        return tries_again


# All of them

_lock = RLock()
_tracks: list[Track] = []
# Of submitted calls that are no longer shown; what they print still has to appear.
_heard: list[_native.Tally] = []
_is_ticking = False


def _add(track: Track) -> None:
    with _lock:
        _tracks.append(track)
        _see_to_ticks()


def _see_to_ticks() -> None:
    """Have a thread see to what is shown, if none does. Under the lock."""
    global _is_ticking
    if not _is_ticking:
        try:
            _at_exit()
            start_new_thread(_tick, ())
            _is_ticking = True
        except RuntimeError:
            # The program is ending, or may have no more threads: what is left is the last line.
            pass


def _tick() -> None:
    """Bring up to date what is shown, until there is nothing any more.

    The lock is not held while it is: what is shown is shown by anybody's code.
    """
    global _is_ticking
    while True:
        time.sleep(INTERVAL_S)
        with _lock:
            if not _tracks and not _heard:
                _is_ticking = False
                return
            steps: list[Callable[[], None]] = [partial(_hear, tally) for tally in _heard]
            steps += [track.draw for track in _tracks]
        views = sys.modules.get("manyhands._progress_views")
        if views is not None:
            steps.append(views.refresh)
        for step in steps:
            _survive(step)


def _survive(step: Callable[[], None]) -> None:
    """Whatever is wrong with one thing that is shown, the others are shown on."""
    try:
        step()
    except BaseException as error:
        _say(f"progress could not be shown: {type(error).__name__}: {error}")


_has_exit_handler = False


def _at_exit() -> None:
    """See to it that the program leaves the terminal clean."""
    global _has_exit_handler
    if not _has_exit_handler:
        import atexit

        _has_exit_handler = True
        atexit.register(_end_all)


def _hear(tally: _native.Tally) -> None:
    tally.look()
    with _lock:
        if tally.is_over() and tally in _heard:
            _heard.remove(tally)


def hear(pending: _native.Pending) -> None:
    """Have what a submitted call prints appear, though the call is not shown and maybe nobody waits for it."""
    with _lock:
        if not _heard:
            _heard.append(_native.Tally())
        _heard[-1].follow(pending)
        _see_to_ticks()


def _end_all() -> None:
    with _lock:
        heard, tracks = list(_heard), list(_tracks)
    for tally in heard:
        _survive(partial(_hear, tally))
    for track in tracks:
        _survive(partial(track.end, "closed"))


#: How long a fork waits for what is shown of a call at the moment, in seconds.
FORK_PATIENCE_S = 0.5

# What this thread has taken to fork.
_forking = _local()


def _before_fork() -> None:
    # Nobody should be in the middle of a line, or have a lock that the child may want. Who forks may have locks that
    # somebody waits for who has these: so not at any price.
    taken: list[Any] = []
    _forking.taken = taken
    for track in list(_tracks):
        if track._showing != get_ident() and track._busy.acquire(True, FORK_PATIENCE_S):
            taken.append(track._busy)
    views = sys.modules.get("manyhands._progress_views")
    if views is not None:
        taken += views.take([*views.locks(), _lock])


def _after_fork_in_parent() -> None:
    taken = getattr(_forking, "taken", [])
    while taken:
        taken.pop().release()


def _after_fork_in_child() -> None:
    global _lock, _is_ticking
    _after_fork_in_parent()
    _lock = RLock()
    _is_ticking = False
    for track in _tracks:
        track.forget()
    _tracks.clear()
    _heard.clear()
    _submitted.clear()
    views = sys.modules.get("manyhands._progress_views")
    if views is not None:
        views.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


# What calls ask for


def begin(
    wanted: Any,
    name: str,
    function: object = None,
    iterables: Iterable[Iterable[Any]] | None = None,
) -> Track | None:
    """Have a call shown from now on, where there is somewhere to show it.

    Parameters
    ----------
    wanted : object
        What `config.shows` gives: anything but False.
    name : str
        That of the call: "map".
    function : object, optional
        What it calls, which has a better name.
    iterables : iterable, optional
        The arguments, if their number is to be found out.
    """
    return _begin(Track, wanted, name, function, iterables)


def begin_stream(
    wanted: Any, function: object, iterables: Iterable[Iterable[Any]], name: str = "stream"
) -> StreamTrack | None:
    """The same for a stream, or what else goes on after the call."""
    return _begin(StreamTrack, wanted, name, function, iterables)


def _begin(
    kind: type[Kind], wanted: Any, name: str, function: object, iterables: Iterable[Iterable[Any]] | None
) -> Kind | None:
    if wanted is False or is_nested():
        return None
    bar = _bar_of(wanted)
    view = _view_of(bar)
    if view is None:
        return None
    called = getattr(function, "__name__", None)
    if not isinstance(called, str) or called.startswith("<"):
        called = name
    shown = bar.description or called
    track = kind(shown, view, bar.minimum, _number_of(iterables))
    track._is_graph = iterables is None
    track.start()
    if bar.minimum == 0.0 and view.is_placed:
        # In a notebook it belongs to the cell that is running now.
        track.draw()
    return track


def _bar_of(wanted: Any) -> ProgressBar:
    return wanted if isinstance(wanted, ProgressBar) else ProgressBar(wanted)


def _view_of(bar: ProgressBar) -> View | None:
    from manyhands import _progress_views

    return _progress_views.view_of(bar.kind, bar.file)


_SIZED = (list, tuple, range, dict, set, frozenset, str, bytes)


def _number_of(iterables: Iterable[Iterable[Any]] | None) -> int | None:
    """How many calls iterables make, where that is known beforehand; the shortest decides."""
    import itertools

    n_least: int | None = None
    for iterable in iterables or ():
        kind = type(iterable)
        # A table has as many rows as it says, and is iterated over by columns.
        if isinstance(iterable, _SIZED) or (kind.__name__ == "ndarray" and getattr(iterable, "ndim", 0) > 0):
            n_items = len(iterable)  # type: ignore[arg-type]
            n_least = n_items if n_least is None else min(n_least, n_items)
        elif kind is itertools.repeat:
            try:
                n_items = iterable.__length_hint__()  # type: ignore[attr-defined]
            except TypeError:  # it has no end
                continue
            n_least = n_items if n_least is None else min(n_least, n_items)
        elif kind not in (itertools.count, itertools.cycle):
            return None
    return n_least


def watching(wanted: Any, name: str, source: Callable[[], tuple[int, bool, int, int, int, int, int]]) -> Track | None:
    """The same for something that counts by itself."""
    track = begin(wanted, name)
    if track is not None:
        track._source = source
    return track


# Submitted calls share one, for each ProgressBar or setting they are made under.
_submitted: dict[int, tuple[Any, SubmittedTrack]] = {}


class SubmittedTrack(Track):
    """Submitted calls that are under way together: those of the engine's own futures, and those of clients'."""

    def __init__(self, name: str, view: View, minimum_s: float, n_all: int | None) -> None:
        from manyhands._progress_futures import Followed

        super().__init__(name, view, minimum_s, n_all)
        self._futures = Followed()
        self._source = self._counts

    def _counts(self) -> tuple[int, bool, int, int, int, int, int]:
        counts = self.tally.counts() or (0, False, 0, 0, 0, 0, 0)
        n_tasks, is_open, n_ended, n_failed, n_retried, n_running, n_died = counts
        of = self._futures
        return n_tasks + of.n, is_open, n_ended + of.n_ended, n_failed + of.n_failed, n_retried, n_running, n_died

    def _are_all_over(self) -> bool:
        are_over = self.tally.counts() is None or self.tally.is_over()
        return are_over and 0 < self._counts()[0] and self._futures.are_over()

    def give_up(self) -> None:
        """The call could not be submitted."""
        if self._counts()[0] == 0:
            self.minimum_s = float("inf")
            self.end("closed")

    def follow(self, pending: _native.Pending) -> bool:
        """Show this call, too; False if those before it have ended meanwhile, and the track with them."""
        with _lock:
            if self._is_over or self._ending is not None:
                return False
            self.tally.follow(pending)
            return True

    def follow_futures(self, futures: Sequence[Future]) -> bool:
        """The same for calls of a client."""
        with _lock:
            if self._is_over or self._ending is not None:
                return False
            self._futures.add(futures)
            return True

    def _look(self, is_last: bool = False) -> None:
        """See which calls have ended."""
        self.tally.look()
        if is_last:
            self._futures.look(self._futures.n)
        else:
            self._futures.look()

    def _draw(self) -> None:
        self._look()
        with _lock:
            is_over = self._are_all_over() and self._is_free()
            if is_over:
                # No call may join any more.
                self._ending = self._ending or "done"
        if not is_over:
            super()._draw()

    def look(self, status: str = "running") -> Progress:
        self._look(is_last=status != "running")
        progress = super().look(status)
        if status == "done" and progress.failed:
            progress.status = "failed"
        return progress

    def _finish(self, status: str) -> None:
        with _lock:
            for key, (_, track) in list(_submitted.items()):
                if track is self:
                    del _submitted[key]
        super()._finish(status)


def submitting(wanted: Any) -> SubmittedTrack | None:
    """What shows submitted calls that are under way together, as one more is going to be."""
    if is_nested():
        return None
    with _lock:
        found = _submitted.get(id(wanted))
    if found is not None and found[1]._ending is None:
        return found[1]
    bar = _bar_of(wanted)
    view = _view_of(bar)
    if view is None:
        return None
    track = SubmittedTrack(bar.description or "submit", view, bar.minimum, None)
    with _lock:
        # Another thread may have been faster.
        found = _submitted.get(id(wanted))
        if found is None or found[1]._ending is not None:
            found = _submitted[id(wanted)] = (wanted, track)
    if found[1] is track:
        track.start()
    return found[1]


def _end_submitted(bar: ProgressBar) -> None:
    """A block ends: what was submitted in it goes on without being shown."""
    with _lock:
        found = _submitted.get(id(bar))
    if found is not None:
        track = found[1]
        track._look(is_last=True)
        with _lock:
            is_over = track._are_all_over()
            track._ending = track._ending or ("done" if is_over else "closed")
            if not is_over and track.tally.counts() is not None:
                _heard.append(track.tally)
        track.end("closed")
