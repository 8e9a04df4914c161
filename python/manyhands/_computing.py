"""What a client of `manyhands.distributed` computes as a whole: Delayed objects, and Dask's collections."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from functools import partial

from manyhands import _native, _run
from manyhands._promises import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from manyhands._promises import Engine

__all__ = ["Computation", "is_lazy", "persisted", "require_known"]

# Keywords of `dask.compute` and `dask.persist` that these do not pass on to a scheduler.
_OF_DASK = {"optimize_graph", "traverse"}


def is_lazy(part: object) -> bool:
    """Whether this is a Delayed object, or a collection of Dask's."""
    if _is_ours(part):
        return True
    # Of an instance, not of a class, nor of an object that has an answer to every question.
    return getattr(type(part), "__dask_graph__", None) is not None and not isinstance(part, type)


def _is_ours(part: object) -> bool:
    return isinstance(part, _native.Delayed)


def require_known(verb: str, lazy: list[Any], options: dict[str, Any]) -> None:
    """Refuse keywords that what is to be computed has no use for, before anything runs."""
    from inspect import signature

    ours, theirs = signature(getattr(_run, verb)).parameters.keys() - {"args"}, _OF_DASK
    if not all(map(_is_ours, lazy)):
        from manyhands.dask import KEYWORDS

        theirs = _OF_DASK | KEYWORDS
    for part in lazy:
        accepted = ours if _is_ours(part) else theirs
        unknown = sorted(options.keys() - accepted)
        if unknown:
            raise TypeError(
                f"{verb}() got unexpected keywords for {type(part).__name__} objects: {', '.join(unknown)}. "
                f"Accepted: {', '.join(sorted(accepted))}."
            )


def _scheduler_of_dask(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords for a verb of Dask's, which is to compute here."""
    from manyhands.dask import get

    own = {name: value for name, value in options.items() if name in _OF_DASK}
    # Not a method of a client, of which Dask would ask to do it all.
    get_there = partial(get, **{name: value for name, value in options.items() if name not in own})
    return {**own, "scheduler": get_there}


def _computed(lazy: list[Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """The results of Delayed objects and of Dask's collections, each kind in one graph."""
    return _each_kind("compute", lazy, options)


def persisted(lazy: list[Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """The same objects, with what they stand for computed."""
    return _each_kind("persist", lazy, options)


def _each_kind(verb: str, lazy: list[Any], options: dict[str, Any]) -> tuple[Any, ...]:
    ours = [part for part in lazy if _is_ours(part)]
    theirs = [part for part in lazy if not _is_ours(part)]
    done: Iterator[Any] = iter(getattr(_run, verb)(*ours, **options) if ours else ())
    others: Iterator[Any] = iter(())
    if theirs:
        import dask

        others = iter(getattr(dask, verb)(*theirs, **_scheduler_of_dask(options)))
    return tuple(next(done) if _is_ours(part) else next(others) for part in lazy)


class Computation:
    """Lazy objects that are computed together in the background, and their futures.

    Parameters
    ----------
    engine : Engine
        The client's.
    lazy : list
        What is to be computed.
    options : dict
        Keywords of `manyhands.compute`.
    """

    __slots__ = ("_halt", "_has_begun", "_is_stopped", "engine", "futures", "lazy", "options")

    def __init__(self, engine: Engine, lazy: list[Any], options: dict[str, Any]) -> None:
        self.engine = engine
        self.lazy = lazy
        self.options = options
        self.futures: list[Future] = []
        # Ends the work from another thread.
        self._has_begun = threading.Event()
        self._halt = _native.Halt(self._has_begun.set)
        self._is_stopped = False

    def begin(self, futures: list[Future], is_here: bool) -> None:
        """Compute for these futures; in this thread, or in one of its own, once it has been submitted.

        So the settings and the objects are those of the moment of the call.
        """
        self.futures = futures
        with self.engine.lock:
            for future in futures:
                future._computation = self
                self.engine.waiting.add(future)
        if is_here:
            self._run(is_here)
            return
        from contextvars import copy_context

        run = partial(copy_context().run, self._run, False)
        threading.Thread(target=run, name="manyhands-compute", daemon=True).start()
        self._has_begun.wait()

    def again(self, future: Future, is_here: bool) -> None:
        """Compute once more what one of the futures stands for."""
        (lazy,) = (part for part, one in zip(self.lazy, self.futures) if one is future)
        Computation(self.engine, [lazy], self.options).begin([future], is_here)

    def stop_if_unwanted(self) -> None:
        """End the work, unless there is a future left that waits for it."""
        with self.engine.lock:
            if not any(future._state == "pending" and future._computation is self for future in self.futures):
                self._is_stopped = True
                self._halt.halt()

    def _run(self, is_here: bool) -> None:
        error: BaseException | None = None
        values: tuple[Any, ...] = ()
        try:
            if is_here:
                values = _computed(self.lazy, self.options)
            else:
                with self._halt:
                    values = _computed(self.lazy, self.options)
        except BaseException as raised:
            error = raised
        finally:
            self._has_begun.set()
        state = "finished" if error is None else "cancelled" if isinstance(error, CancelledError) else "error"
        with self.engine.lock:
            for number, future in enumerate(self.futures):
                if self._is_stopped or future._state != "pending" or future._computation is not self:
                    continue  # cancelled, and perhaps begun anew
                self.engine.waiting.discard(future)
                if error is None:
                    # What could compute it again is of no further use.
                    future._computation = None
                    future._end(state, values[number])
                else:
                    future._end(state, error=error)
        for future in self.futures:
            if future._state != "pending":
                future._tell()
        if is_here and error is not None and not isinstance(error, Exception):
            raise error
