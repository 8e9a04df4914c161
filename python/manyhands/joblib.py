"""joblib, and with it scikit-learn, on manyhands.

>>> import joblib
>>> import manyhands.joblib
>>> manyhands.joblib.register()
>>> with joblib.parallel_config(backend="manyhands", n_jobs=2):
...     joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(5))
[0, 1, 4, 9, 16]

What runs where is a matter of the configuration, as everywhere. Large arrays travel through shared memory: no file is
made of them, each is copied once, and tasks may write to theirs. joblib's parameters for its temporary files
(``temp_folder``, ``max_nbytes``, ``mmap_mode``) are accepted, and of no effect.
"""

from __future__ import annotations

import itertools
from collections import deque
from contextlib import suppress
from functools import cache
from types import FunctionType, ModuleType

import joblib
from joblib.parallel import BACKENDS, FallbackToBackend, ParallelBackendBase, SequentialBackend

from manyhands import _native, _worker, config
from manyhands._executor import Executor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from typing import Any

    from manyhands._executor import Submitted

__all__ = ["Backend", "register"]

#: Under this name joblib knows the backend.
NAME = "manyhands"

# joblib hands out the next batch when one has come back. For calls shorter than that way, it is worth while to send
# several at once: scikit-learn's are a millisecond of pickling each, most of which the calls of a batch have in common.
# More than this much work at once gains nothing, and has the last workers wait for each other. The time of a batch is
# from the moment it was sent: half of it is waiting behind another.
_BATCH_S_MIN = 0.05
_BATCH_S_MAX = 0.2
_GROWTH_MAX = 8
# Calls of one batch are pickled together, and what they have in common is one object in the worker. So that none sees
# what others write to it, each gets a copy: worth while only up to this size, as larger arrays are shared with workers
# that get one call at a time. Other objects are pickled for each call one way or the other. Whether there is a large
# array in a call is looked for among so many objects, those nearest to the call first: in the first calls, which decide
# on batches, and in the others, which look like them. To look through each as well took longer than calls did that hold
# all that scikit-learn knows of a search.
_SMALL_BYTES = 1 << 20
_N_FIRST_CALLS = 4
_N_OBJECTS_MAX = 1000
_N_OBJECTS_MAX_LATER = 32
# What nobody can write to.
_ATOMS = frozenset({bool, bytes, complex, float, int, str, type(None), ModuleType, type})


def register(*, make_default: bool = False) -> None:
    """Have joblib know the backend ``"manyhands"``.

    Parameters
    ----------
    make_default : bool
        Whether joblib is to use it where nothing else is asked for.

    Examples
    --------
    >>> import joblib
    >>> import manyhands.joblib
    >>> manyhands.joblib.register()
    >>> joblib.Parallel(n_jobs=2, backend="manyhands")(joblib.delayed(abs)(i) for i in [-1, 2])
    [1, 2]
    """
    if not hasattr(ParallelBackendBase, "supports_retrieve_callback"):
        raise ImportError(
            f"joblib {joblib.__version__} is too old for the backend of manyhands, which needs 1.3 or later"
        )
    joblib.register_parallel_backend(NAME, Backend, make_default=make_default)


class Backend(ParallelBackendBase):  # type: ignore[misc]
    """What joblib calls a backend: made by joblib, by the name ``"manyhands"``.

    Parameters
    ----------
    scheduler : str, optional
        Where the calls run; by default as configured.
    initializer : callable, optional
        Called in each worker before its first call. With one worker, calls are made by whoever asks for them; then it
        is called there, each time.
    initargs : tuple
        What the initializer is called with.
    nesting_level, inner_max_num_threads, **options
        joblib's.

    Examples
    --------
    >>> import joblib
    >>> import manyhands.joblib
    >>> manyhands.joblib.register()
    >>> with joblib.parallel_config(backend="manyhands", scheduler="threads", n_jobs=2):
    ...     joblib.Parallel()(joblib.delayed(abs)(i) for i in [-1, 2])
    [1, 2]
    """

    supports_retrieve_callback = True
    #: All workers there are.
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        *,
        scheduler: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **options)
        self._given: dict[str, Any] = {"scheduler": scheduler, "initializer": initializer, "initargs": initargs}
        # The same with what the call says that is under way.
        self._now = self._given
        config.resolve(scheduler)  # an error of the user's is raised here, where he made it
        self._workers: Executor | None = None
        self._futures: dict[int, Submitted[Any]] = {}
        self._numbers = itertools.count()
        self._batch_size = 1
        self._may_batch = True
        self._n_looked_at = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker, as the backend of calls inside of calls, goes what the user has said, and nothing that runs.
        return _rebuilt, (self.nesting_level, self.inner_max_num_threads, self._given)

    @property
    def _scheduler(self) -> str:
        return config.resolve(self._now["scheduler"])[0]

    @property
    def uses_threads(self) -> bool:
        """Whether calls run in this process."""
        return self._scheduler in ("threads", "synchronous")

    @property
    def supports_sharedmem(self) -> bool:
        """Whether calls see what others do to their arguments."""
        return self.uses_threads

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers `n_jobs` stands for; -1 for the configured number, -2 for one less.

        Parameters
        ----------
        n_jobs : int, optional
            As given to joblib.

        Returns
        -------
        int
            At least 1.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if self._now["scheduler"] is None and (_native.in_task() or _worker.is_worker):
            # In a task, all workers are busy with tasks such as that one.
            return 1
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs < 0:
            return max(1, config.resolve()[1] + 1 + n_jobs)
        return n_jobs

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        scheduler: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **_options: Any,
    ) -> int:
        """Prepare for calls; returns how many workers there are.

        Parameters
        ----------
        n_jobs : int
            As given to joblib.
        parallel : joblib.Parallel
            Who makes the calls.
        scheduler, initializer, initargs
            As for the class, which they go before.
        """
        given = dict(self._given)
        if scheduler is not None:
            config.resolve(scheduler)
            given["scheduler"] = scheduler
        if initializer is not None:
            given.update(initializer=initializer, initargs=initargs)
        self._now = given
        n_workers = self.effective_n_jobs(n_jobs)
        if n_workers == 1:
            if given["initializer"] is not None:
                given["initializer"](*given["initargs"])
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._workers = Executor(n_workers, **given)
        return n_workers

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Submitted[Any]:
        """Have a batch of calls made.

        Parameters
        ----------
        func : joblib.parallel.BatchedCalls
            The batch.
        callback : callable, optional
            Called with the future once it is done.
        """
        if self._workers is None:
            raise RuntimeError("this backend has been ended; it takes no more calls")
        is_here = self.uses_threads
        self._may_batch = self._may_batch and (is_here or not self._has_large_call(getattr(func, "items", ())))
        future = self._workers.submit(_call if is_here or len(func) == 1 else _call_apart, func)
        number = next(self._numbers)
        self._futures[number] = future

        def done(future: Any) -> None:
            self._futures.pop(number, None)
            if callback is not None:
                callback(future)

        future.add_done_callback(done)
        return future

    # The name before joblib 1.5.
    apply_async = submit

    def _has_large_call(self, calls: Collection[tuple[Any, ...]]) -> bool:
        """Whether one of these is too large to be sent with others."""
        n_objects_max = _N_OBJECTS_MAX if self._n_looked_at < _N_FIRST_CALLS else _N_OBJECTS_MAX_LATER
        self._n_looked_at += len(calls)
        return any(_is_large(call, n_objects_max) for call in calls)

    def retrieve_result_callback(self, out: Submitted[Any]) -> Any:
        """What a batch has returned, or raised.

        Parameters
        ----------
        out : Submitted
            What `submit` has returned.
        """
        return out.result()

    def compute_batch_size(self) -> int:
        """How many calls to send at once."""
        return self._batch_size

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Learn from how long a batch took.

        Parameters
        ----------
        batch_size : int
            How many calls it had.
        duration : float
            How many seconds it took, from the moment it was sent.
        """
        if batch_size != self._batch_size or not self._may_batch:
            return
        if duration < _BATCH_S_MIN:
            # Each size costs a few round trips before anything is known of it; a single short one says little.
            times = _BATCH_S_MIN / max(duration, 1e-6)
            self._batch_size *= max(2, min(_GROWTH_MAX, int(times)))
        elif duration > _BATCH_S_MAX:
            self._batch_size = max(1, batch_size // 2)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End all calls, those that run among them.

        Parameters
        ----------
        ensure_ready : bool
            Whether there may be more calls.
        """
        while self._futures:
            try:
                _, future = self._futures.popitem()
            except KeyError:  # its end has come first
                break
            future.stop()
        if not ensure_ready:
            self.terminate()

    def terminate(self) -> None:
        """Let go of the workers."""
        self._batch_size = 1
        self._may_batch = True
        self._n_looked_at = 0
        self._now = self._given
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.shutdown(wait=False)


def _is_large(call: tuple[Any, ...], n_objects_max: int) -> bool:
    """Whether there is more in a call than is to be copied so that it can be sent with others, as far as is seen."""
    n_bytes = 0
    to_see: deque[Any] = deque([call])
    seen: set[int] = set()
    while to_see and len(seen) < n_objects_max:
        obj = to_see.popleft()
        if _is_atom(obj) or _is_shared(obj) or id(obj) in seen:
            continue
        seen.add(id(obj))
        n_bytes += _n_bytes_of(obj)
        if n_bytes > _SMALL_BYTES:
            return True
        to_see.extend(itertools.islice(_parts_of(obj), n_objects_max))
    return False


def _is_atom(obj: Any) -> bool:
    return type(obj) in _ATOMS or isinstance(obj, type) or (type(obj) is FunctionType and not obj.__closure__)


def _parts_of(obj: Any) -> Iterable[Any]:
    """The objects that this one holds, as far as that can be seen."""
    if isinstance(obj, dict):
        return obj.values()
    if isinstance(obj, (list, tuple, set, frozenset)):
        return obj
    if type(obj) is FunctionType:
        return [getattr(cell, "cell_contents", None) for cell in obj.__closure__ or ()]
    # An estimator, a bound method, a partial.
    return [*getattr(obj, "__dict__", {}).values(), getattr(obj, "__self__", None), getattr(obj, "args", None)]


def _n_bytes_of(obj: Any) -> int:
    """The bytes of an array or a table; of what does not know, none."""
    n_bytes: Any = getattr(obj, "nbytes", None)
    if n_bytes is None and callable(getattr(obj, "memory_usage", None)):  # of pandas
        n_bytes = obj.memory_usage().sum()
    elif n_bytes is None and callable(getattr(obj, "estimated_size", None)):  # of Polars
        n_bytes = obj.estimated_size()
    return int(n_bytes) if hasattr(n_bytes, "__index__") else 0


def _call(batch: Callable[[], Any]) -> Any:
    """A batch of calls, in a worker."""
    if NAME not in BACKENDS:
        register()
    return batch()


def _call_apart(batch: Any) -> Any:
    """A batch of calls, in a process that has unpickled them together: each has objects of its own."""
    batch.items = _apart(batch.items)
    return _call(batch)


def _apart(items: list[Any]) -> Iterator[Any]:
    """Each call when its turn comes, as if it had been sent by itself."""
    for number, item in enumerate(items):
        function, args, kwargs = item
        is_plain = all(map(_is_atom, (function, *args, *kwargs.values())))
        # The last may have what all others have left as it was.
        yield item if is_plain or number == len(items) - 1 else _copied(item)


def _copied(item: Any) -> Any:
    import io

    for copier, reader in _copiers():
        with suppress(Exception):
            shared: list[Any] = []
            file = io.BytesIO()
            copier(file, shared).dump(item)
            file.seek(0)
            return reader(file, shared).load()
    # It has come here, in a way that is not to be had twice; the call is not to fail for that.
    return item


@cache
def _copiers() -> list[tuple[Any, Any]]:
    """What copies objects by pickling; by cloudpickle, slower, what is of the program itself, say."""
    import pickle

    import cloudpickle

    class Reader(pickle.Unpickler):
        def __init__(self, file: Any, shared: list[Any]) -> None:
            super().__init__(file)
            self.persistent_load = shared.__getitem__  # type: ignore[method-assign]

    def copier(pickler: Any) -> Any:
        class Copier(pickler):  # type: ignore[misc]
            def __init__(self, file: Any, shared: list[Any]) -> None:
                super().__init__(file, pickle.HIGHEST_PROTOCOL)
                self.shared = shared

            def persistent_id(self, obj: Any) -> int | None:
                if not _is_shared(obj):
                    return None
                self.shared.append(obj)
                return len(self.shared) - 1

        return Copier

    return [(copier(pickle.Pickler), Reader), (copier(cloudpickle.Pickler), Reader)]


def _is_shared(obj: Any) -> bool:
    """Whether it is scikit-learn's own account of a search, or its settings, which come with each call.

    They are many times what the call is about, and made for being shared by the calls of a batch.
    """
    kind = type(obj)
    module = kind.__module__
    if not isinstance(module, str) or not module.startswith("sklearn."):
        return False
    # What goes around a function is for all calls; a function may hold something that is not.
    is_wrapper = kind.__name__ == "_FuncWrapper" and _is_atom(getattr(obj, "function", None))
    return is_wrapper or module.startswith("sklearn.callback.")


def _rebuilt(nesting_level: int | None, inner_max_num_threads: int | None, given: dict[str, Any]) -> Backend:
    return Backend(nesting_level, inner_max_num_threads, **given)
