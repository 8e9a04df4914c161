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

import joblib
from joblib.parallel import BACKENDS, FallbackToBackend, ParallelBackendBase, SequentialBackend

from manyhands import _native, _worker, config
from manyhands._executor import Executor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
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
# Calls of one batch are pickled together, and what they have in common is one object in the worker. So that none sees
# what another writes to an array, each gets a copy: worth while only up to this size.
_SMALL_BYTES = 1 << 20


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
        Called in each worker before its first call.
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
        self._given = {"scheduler": scheduler, "initializer": initializer, "initargs": initargs}
        config.resolve(scheduler)  # an error of the user's is raised here, where he made it
        self._workers: Executor | None = None
        self._futures: dict[int, Submitted[Any]] = {}
        self._numbers = itertools.count()
        self._batch_size = 1
        self._may_batch = True

    def __reduce__(self) -> tuple[Any, ...]:
        # To a worker, as the backend of calls inside of calls, goes what the user has said, and nothing that runs.
        return _rebuilt, (self.nesting_level, self.inner_max_num_threads, self._given)

    @property
    def _scheduler(self) -> str:
        return config.resolve(self._given["scheduler"])[0]  # type: ignore[arg-type]

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
        if self._given["scheduler"] is None and (_native.in_task() or _worker.is_worker):
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
        n_workers = self.effective_n_jobs(n_jobs)
        given = dict(self._given)
        if scheduler is not None:
            given["scheduler"] = scheduler
        if initializer is not None:
            given.update(initializer=initializer, initargs=initargs)
        if n_workers == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._workers = Executor(n_workers, **given)  # type: ignore[arg-type]
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
        self._may_batch = self._may_batch and (is_here or not _has_large_arrays(func))
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
            self._batch_size *= 2
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
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.shutdown(wait=False)


def _has_large_arrays(batch: Any) -> bool:
    """Whether calls have arrays as arguments that are not to be copied for each of them."""
    for _, args, kwargs in getattr(batch, "items", ()):
        n_bytes = 0
        for arg in itertools.chain(args, kwargs.values()):
            if hasattr(arg, "nbytes"):
                n_bytes += arg.nbytes
                if n_bytes > _SMALL_BYTES or not hasattr(arg, "copy"):
                    return True
    return False


def _call(batch: Callable[[], Any]) -> Any:
    """A batch of calls, in a worker."""
    if NAME not in BACKENDS:
        register()
    return batch()


def _call_apart(batch: Any) -> Any:
    """A batch of calls, in a process that has unpickled them together: each writes to arrays of its own."""
    batch.items = [_with_own_arrays(*item) for item in batch.items]
    return _call(batch)


def _with_own_arrays(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The same call, with copies of its arrays; what is one array in it stays one."""
    own: dict[int, Any] = {}

    def of(arg: Any) -> Any:
        if getattr(arg, "nbytes", _SMALL_BYTES + 1) > _SMALL_BYTES or not hasattr(arg, "copy"):
            return arg
        if id(arg) not in own:
            own[id(arg)] = arg.copy()
        return own[id(arg)]

    return function, tuple(map(of, args)), {name: of(value) for name, value in kwargs.items()}


def _rebuilt(nesting_level: int | None, inner_max_num_threads: int | None, given: dict[str, Any]) -> Backend:
    return Backend(nesting_level, inner_max_num_threads, **given)
