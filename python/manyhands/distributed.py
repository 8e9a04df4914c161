"""Futures in the shape of Dask's distributed, on this machine: `Client`, and what belongs to it.

>>> from manyhands.distributed import Client
>>> with Client(n_workers=2) as client:
...     squares = client.map(pow, range(5), [2] * 5)
...     total = client.submit(sum, squares)
...     client.gather([total, squares])
[30, [0, 1, 4, 9, 16]]

There is no scheduler's process and no network: the workers are those of the engine, and results stay in memory that all
of them share. Futures are given to calls as arguments; where calls run in processes, they receive the result from where
it lies, and this process does not unpickle it.
"""

from __future__ import annotations

from concurrent.futures import CancelledError

from manyhands import _native, _pools, _promises, _run, config
from manyhands._call_keys import key_of, keys_of
from manyhands._cluster import CLIENT_KEYWORDS, LocalCluster, refuse_actors, refuse_asynchronous, refuse_unknown
from manyhands._computing import Computation, is_lazy, persisted, require_known
from manyhands._guarded import Guarded
from manyhands._promises import Engine, Future
from manyhands._waiting import as_completed, fire_and_forget, futures_in, gathered, progress, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

__all__ = [
    "CancelledError",
    "Client",
    "Future",
    "LocalCluster",
    "as_completed",
    "fire_and_forget",
    "get_client",
    "progress",
    "wait",
    "worker_client",
]

# Those that are the default, the last first in turn.
_clients: list[_Weakly] = []


class Client:
    """Submits calls to the workers of this machine, and gives futures for their results.

    While a client lives, it is the default: `manyhands.compute`, `map`, `submit` and the like run on its workers; so do
    Dask's collections, if Dask was imported before the client was made. Close it, or use it in a ``with``: that cancels
    what has not ended.

    Parameters
    ----------
    cluster : LocalCluster, optional
        Where calls run. By default a new `LocalCluster` of the other keywords.
    set_as_default : bool, default True
        Whether everything else runs there too while the client lives.
    asynchronous : bool, default False
        True is refused: futures can be awaited in any case.
    **kwargs
        As for `LocalCluster`.

    Raises
    ------
    TypeError
        For the address of a remote cluster, and as for `LocalCluster`.

    Examples
    --------
    >>> from manyhands.distributed import Client
    >>> client = Client(n_workers=2)
    >>> client.gather(client.map(abs, [-1, 2]))
    [1, 2]
    >>> client.close()
    """

    def __init__(
        self,
        cluster: LocalCluster | None = None,
        *,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        processes: bool | None = None,
        set_as_default: bool = True,
        asynchronous: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_asynchronous("Client", asynchronous)
        refuse_unknown("Client", kwargs, CLIENT_KEYWORDS)
        if cluster is None:
            cluster = LocalCluster(n_workers, threads_per_worker, processes)
        elif not isinstance(cluster, LocalCluster):
            raise TypeError(
                f"Client({cluster!r:.80}): a client of manyhands has the workers of this machine, and takes a "
                "manyhands.distributed.LocalCluster or nothing; it does not connect to a scheduler elsewhere"
            )
        self.cluster = cluster
        self._is_nested = _run.is_nested()
        self._engine = Engine(self, cluster.scheduler, self._pool)
        self._by_key: dict[str, Any] = {}
        self._settings: Any = None
        self._dask_settings: Any = None
        self.status = "running"
        #: Whether its methods are to be awaited, which Dask asks.
        self.asynchronous = False
        if set_as_default and not self._is_nested:
            self._become_default()

    # Being there

    def __repr__(self) -> str:
        return f"<Client: {self.status}, {self.cluster.n_workers} workers, scheduler {self.cluster.scheduler!r}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Whoever made it and lost it does not want everything to run there for ever.
        if getattr(self, "status", "closed") == "running":
            self.close()

    def _become_default(self) -> None:
        import sys

        self._settings = config.set(scheduler=self.cluster.scheduler, num_workers=self.cluster.n_workers)
        self._settings.__enter__()
        _clients.append(_Weakly(self))
        if "dask" in sys.modules:
            from manyhands._dask_setting import Layer

            self._dask_settings = Layer()

    def _pool(self, resources: dict[str, int] | None) -> Any:
        """The pool that calls go to now which need so much; None to make them in this thread."""
        if self.status != "running":
            raise RuntimeError("the client was closed, and takes no further calls")
        if self._is_nested or _run.is_nested():
            if resources:
                from manyhands import _resources

                _resources.refuse_nested(resources)
            return None
        if resources is None:
            scheduler, n_workers, _, pool = _run._where(self.cluster.scheduler, self.cluster.n_workers, None)
            level = None
        else:
            # That there is so much was checked when the call was submitted, and is what it was promised.
            pool = None
            scheduler, n_workers, _, level = config.resolve_plan(self.cluster.scheduler, self.cluster.n_workers, None)
        if scheduler == "fork":  # forced by whoever runs the program
            scheduler, pool = "processes", None
        self._engine.scheduler = scheduler
        if scheduler == "synchronous":
            return None
        if pool is None:
            if level is None:
                level = config.resolve_plan(None, n_workers, None)[3]
            pool = _pools.pool(scheduler, n_workers, level, resources)
        return pool

    def _needed(self, resources: Mapping[str, int] | None) -> dict[str, int] | None:
        """What calls need that are submitted now, wherever they come to be launched."""
        if resources is None and _in_block() is None:
            return None
        from manyhands import _resources

        if self._is_nested or _run.is_nested():
            _resources.refuse_nested(resources)
        return _resources.promised(resources, self.cluster.scheduler) or None

    @classmethod
    def current(cls) -> Client:
        """The client that was made last and lives.

        Raises
        ------
        ValueError
            If there is none.
        """
        for found in reversed(_clients):
            client = found()
            if client is not None and client.status == "running":
                return client
        raise ValueError("no manyhands.distributed.Client is there; make one: Client()")

    def close(self, timeout: float | None = None) -> None:
        """Cancel what has not ended, and stop being the default.

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> client = Client(n_workers=1)
        >>> client.close()
        >>> client.status
        'closed'
        """
        if self.status == "closed":
            return
        self.status = "closed"
        if self._dask_settings is not None:
            self._dask_settings.end()
        if self._settings is not None:
            self._settings.__exit__(None, None, None)
        _clients[:] = [found for found in _clients if found() not in (None, self)]
        self._engine.end()

    def shutdown(self) -> None:
        """Close the client, and end the workers."""
        self.close()
        _pools.shutdown()

    def ncores(self) -> dict[str, int]:
        """How many calls each worker runs at a time: one.

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     client.ncores()
        {'worker-0': 1, 'worker-1': 1}
        """
        return {f"worker-{number}": 1 for number in range(self.cluster.n_workers)}

    nthreads = ncores

    # Calls

    def submit(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        workers: Any = None,
        resources: Mapping[str, int] | None = None,
        retries: int | None = None,
        priority: int = 0,
        fifo_timeout: Any = None,
        allow_other_workers: bool = False,
        actor: bool = False,
        actors: bool = False,
        pure: bool = False,
        **kwargs: Any,
    ) -> Future:
        """Have a function called.

        The keywords are those of Dask's client; all others are the function's.

        Parameters
        ----------
        function : callable
            Called with the other arguments.
        *args, **kwargs
            Its arguments. Futures in them, inside of collections too, are waited for, without keeping anybody, and the
            function receives their results.
        key : str, optional
            A name. A call with the key of one whose future is still there is that one.
        resources : mapping of str to int, optional
            What the call needs while it runs, as for `manyhands.compute`. By default what the block of
            `manyhands.resources` says around this.
        retries : int, optional
            How many further attempts there are if the function raises an exception.
        pure : bool, default False
            Whether equal calls are one: with the same function and arguments.
        workers, allow_other_workers, priority, fifo_timeout
            Accepted for programs written for Dask; change nothing, as all workers are alike.
        actor, actors : bool, default False
            True is refused.

        Returns
        -------
        Future

        Raises
        ------
        PicklingError
            If the function or an argument cannot be sent to a worker process.
        ConfigError
            For `resources` that can never be had.
        TypeError
            For actors, which there are not.

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     parts = [client.submit(pow, n, 2) for n in range(4)]
        ...     client.submit(sum, parts).result()
        14
        """
        _run._require_callable(function, "submit")
        refuse_actors(actor, actors)
        if key is None and pure:
            key = key_of(function, args, kwargs)
        known = self._known(key)
        if known is not None:
            return known
        future = Future(self._engine, Guarded(function, retries or 0), args, kwargs or None, key)
        future._root = _run._root(None, is_single=True)
        future._resources = self._needed(resources)
        self._engine.start(future)
        self._show([future])
        return self._named(future)

    def map(
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        key: str | list[str] | None = None,
        workers: Any = None,
        retries: int | None = None,
        resources: Mapping[str, int] | None = None,
        priority: int = 0,
        allow_other_workers: bool = False,
        fifo_timeout: Any = None,
        actor: bool = False,
        actors: bool = False,
        pure: bool = False,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[Future]:
        """Have a function called with each item of an iterable.

        Parameters
        ----------
        function : callable
            Called with one item of each iterable.
        *iterables : iterable
            The shortest decides. Items may be futures.
        key : str or list of str, optional
            What the keys of the calls begin with; or the keys.
        pure : bool, default False
            Whether equal calls are one. By default each item is a call: ``map(f, [5] * 8)`` calls eight times.
        resources, retries, workers, allow_other_workers, priority, fifo_timeout, actor, actors
            As for `submit`.
        batch_size : int, optional
            Accepted for programs written for Dask; changes nothing, as all calls are submitted at once.
        **kwargs
            Further arguments of each call, sent once to each worker.

        Returns
        -------
        list of Future

        Raises
        ------
        PicklingError, ConfigError, TypeError
            As for `submit`.

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     client.gather(client.map(pow, [2, 3], [5, 2], mod=10))
        [2, 9]
        """
        _run._require_callable(function, "map")
        if not iterables:
            raise TypeError("map() needs at least one iterable of arguments after the function")
        refuse_actors(actor, actors)
        items = list(zip(*iterables))
        keys = keys_of(key, function, items, kwargs, pure)
        root = _run._root(None)
        has_futures = _native.Template.of((items,), kwargs) is not None
        if kwargs and not has_futures:
            from functools import partial

            guarded = Guarded(partial(function, **kwargs), retries or 0)
        else:
            guarded = Guarded(function, retries or 0)
        engine = self._engine
        if keys is None and not has_futures:
            futures = [Future(engine, guarded, item) for item in items]
            new = futures
        else:
            futures, new = self._futures_of(items, keys, guarded, kwargs if has_futures else None)
        needs = self._needed(resources)
        if needs is not None:
            for future in new:
                future._resources = needs
        if root is not None:
            for number, future in enumerate(futures):
                future._root, future._number = root, number
        try:
            if has_futures or (root is not None and len(new) < len(futures)):
                for future in new:
                    engine.start(future)
            elif new:
                engine.start_many(new)
        except BaseException:
            # Nobody may find those by their keys that will never end.
            for future in new:
                if future._key is not None and future._batch is None and future not in engine.waiting:
                    self._by_key.pop(future._key, None)
            raise
        self._show(new)
        return futures

    def _futures_of(
        self, items: list[tuple[Any, ...]], keys: list[str] | None, guarded: Guarded, kwargs: dict[str, Any] | None
    ) -> tuple[list[Future], list[Future]]:
        """Futures for the items; and those of them that are new."""
        futures, new = [], []
        for number, item in enumerate(items):
            key = keys[number] if keys is not None else None
            future = self._known(key)
            if future is None:
                future = self._named(Future(self._engine, guarded, item, kwargs, key))
                new.append(future)
            futures.append(future)
        return futures, new

    def _show(self, futures: list[Future]) -> None:
        """Have calls that were submitted shown by `manyhands.ProgressBar` and the setting, as other calls are."""
        if futures and config.shows() is not False and not self._engine.is_here():
            _run._follow_futures(futures, self._engine.scheduler)

    def _known(self, key: str | None) -> Future | None:
        found = self._by_key.get(key) if key is not None else None
        future: Future | None = found() if found is not None else None
        return None if future is None or future.cancelled() else future

    def _named(self, future: Future) -> Future:
        if future._key is not None:
            from weakref import ref

            key, by_key = future._key, self._by_key

            def forget(gone: Any) -> None:
                if by_key.get(key) is gone:
                    del by_key[key]

            by_key[key] = ref(future, forget)
        return future

    # Data and results

    def scatter(
        self,
        data: Any,
        workers: Any = None,
        broadcast: bool = False,
        direct: bool | None = None,
        hash: bool = True,
        timeout: Any = None,
        asynchronous: bool | None = None,
    ) -> Any:
        """Make futures of data.

        There is no need to: data that several calls are given lies in shared memory once, and the calls are spread over
        all workers, whoever has it. The data itself becomes the result, and is not copied until a call needs it.

        Parameters
        ----------
        data : object
            A list, tuple, set or iterator gives futures of its items; a dict of its values; anything else one future.
        workers, broadcast, direct, hash, timeout
            Accepted for programs written for Dask; change nothing.
        asynchronous : bool, optional
            True is refused, as for all methods.

        Returns
        -------
        Future, or a collection of them

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     numbers = client.scatter([[1, 2], [3, 4]])
        ...     client.gather(client.map(sum, numbers))
        [3, 7]
        """
        refuse_asynchronous("scatter", asynchronous)
        if isinstance(data, dict):
            return {name: self._of_value(value) for name, value in data.items()}
        if isinstance(data, (list, tuple, set, frozenset)):
            futures = [self._of_value(item) for item in data]
            return futures if isinstance(data, list) else type(data)(futures)
        if hasattr(data, "__next__"):
            return [self._of_value(item) for item in data]
        return self._of_value(data)

    def _of_value(self, value: Any) -> Future:
        future = Future(self._engine, None)
        future._state, future._value = "finished", value
        return future

    def gather(
        self, futures: Any, errors: str = "raise", direct: bool | None = None, asynchronous: bool | None = None
    ) -> Any:
        """Put results in the places of futures.

        Parameters
        ----------
        futures : Future, or a collection of them
            Lists, tuples, sets and dicts, nested as deep as you like; anything else stays as it is.
        errors : str, default "raise"
            ``"raise"`` raises what the first call raised that failed; ``"skip"`` leaves failed ones out.
        direct, asynchronous
            As for `scatter`.

        Returns
        -------
        object
            Of the same shape.

        Raises
        ------
        Exception
            What a call raised.

        Examples
        --------
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     one = client.submit(abs, -1)
        ...     client.gather({"one": one, "more": [one, (one, "text")]})
        {'one': 1, 'more': [1, (1, 'text')]}
        """
        refuse_asynchronous("gather", asynchronous)
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors={errors!r} is not accepted: "raise" or "skip"')
        if isinstance(futures, Future):
            return futures.result()
        if hasattr(futures, "__next__"):
            futures = list(futures)
        return gathered(futures, errors == "skip")

    def compute(
        self,
        collections: Any,
        sync: bool = False,
        *,
        workers: Any = None,
        allow_other_workers: bool = False,
        priority: int = 0,
        fifo_timeout: Any = None,
        actors: bool | None = None,
        **options: Any,
    ) -> Any:
        """Compute Delayed objects and Dask's collections in the background, all together.

        Parameters
        ----------
        collections : object, or list or tuple of objects
            What is neither Delayed nor a collection of Dask's is given back as it is.
        sync : bool, default False
            Whether to wait, and return results instead of futures.
        workers, allow_other_workers, priority, fifo_timeout, actors
            As for `submit`.
        **options
            Keywords of `manyhands.compute`, or of `manyhands.dask.get` for Dask's collections, such as `retries` and
            `resources`.

        Returns
        -------
        Future, or list or tuple of futures
            The work ends when all of them are cancelled.

        Raises
        ------
        TypeError
            For a keyword that is none of these, and for actors.

        Examples
        --------
        >>> import manyhands as mh
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     client.compute(mh.delayed(sum)([1, 2, 3])).result()
        6
        """
        refuse_actors(actors)
        several = isinstance(collections, (list, tuple, set, frozenset))
        parts = list(collections) if several else [collections]
        lazy = [part for part in parts if is_lazy(part)]
        require_known("compute", lazy, options)
        is_here = self._engine.is_here()
        futures = [Future(self._engine, None) for _ in lazy]
        if lazy:
            Computation(self._engine, lazy, self._options(options)).begin(futures, is_here)
        results = iter(futures)
        outcome = [next(results) if is_lazy(part) else part for part in parts]
        if sync:
            outcome = [part.result() if isinstance(part, Future) else part for part in outcome]
        return type(collections)(outcome) if several else outcome[0]

    def persist(
        self,
        collections: Any,
        *,
        workers: Any = None,
        allow_other_workers: bool | None = None,
        priority: int = 0,
        fifo_timeout: Any = None,
        actors: bool | None = None,
        **options: Any,
    ) -> Any:
        """Compute collections and keep them lazy: what is built on them starts from the results. Waits for these.

        Parameters
        ----------
        collections, workers, allow_other_workers, priority, fifo_timeout, actors, **options
            As for `compute`.

        Returns
        -------
        object, or list or tuple of objects
            Of the same kinds.

        Examples
        --------
        >>> import manyhands as mh
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     kept = client.persist(mh.delayed(pow)(3, 2))
        ...     (kept + 1).compute()
        10
        """
        refuse_actors(actors)
        several = isinstance(collections, (list, tuple, set, frozenset))
        parts = list(collections) if several else [collections]
        lazy = [part for part in parts if is_lazy(part)]
        require_known("persist", lazy, options)
        kept = iter(persisted(lazy, self._options(options)))
        outcome = [next(kept) if is_lazy(part) else part for part in parts]
        return type(collections)(outcome) if several else outcome[0]

    def get(self, dsk: Mapping[Any, Any], keys: Any, **kwargs: Any) -> Any:
        """Compute a graph of Dask's, as `manyhands.dask.get` does.

        Parameters
        ----------
        dsk, keys, **kwargs
            As for `manyhands.dask.get`.
        """
        from manyhands.dask import get

        return get(dsk, keys, **self._options(kwargs))

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Keywords of a verb, with where this client's calls run."""
        if _run.is_nested():
            return given
        if self._is_nested:
            # In a thread that a task has started, and may wait for.
            return {"scheduler": "synchronous", **given}
        options = {"scheduler": self.cluster.scheduler, "num_workers": self.cluster.n_workers, **given}
        needs = _in_block()
        return options if needs is None else {"resources": needs, **options}

    # What becomes of calls

    def cancel(
        self,
        futures: Any,
        asynchronous: bool | None = None,
        force: bool = False,
        reason: str | None = None,
        msg: str | None = None,
    ) -> None:
        """Cancel calls. One that runs in a process is stopped; one that runs in a thread cannot be.

        Calls of the same `map` that are not cancelled go on; those of them that were running in processes begin anew.
        What `compute` is at is ended when all of its futures are cancelled: tasks in processes are stopped, and those
        in threads interrupted, which ends them where they run Python code.

        Parameters
        ----------
        futures : Future, or a collection of them
        force, reason, msg
            Accepted for programs written for Dask; change nothing.
        asynchronous
            As for `scatter`.

        Examples
        --------
        >>> import time
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     future = client.submit(time.sleep, 60)
        ...     client.cancel(future)
        ...     future.status
        'cancelled'
        """
        refuse_asynchronous("cancel", asynchronous)
        _promises.cancel(futures_in(futures))

    def retry(self, futures: Any, asynchronous: bool | None = None) -> None:
        """Submit calls again that have failed or were cancelled; with them those before, whose failures they inherited.

        Other calls that have inherited the same failure keep it, until they are retried. What `compute` has given
        futures for is computed again. Nothing is done about calls that have returned, or have not ended.

        Parameters
        ----------
        futures : Future, or a collection of them
        asynchronous
            As for `scatter`.

        Examples
        --------
        >>> import os
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=1, processes=False) as client:
        ...     value = client.submit(os.environ.__getitem__, "NOT_THERE_YET")
        ...     length = client.submit(len, value)
        ...     print(length.exception() is None)
        ...     os.environ["NOT_THERE_YET"] = "now"
        ...     client.retry(length)
        ...     print(length.result())
        ...     del os.environ["NOT_THERE_YET"]
        False
        3
        """
        refuse_asynchronous("retry", asynchronous)
        again = list(futures_in(futures))
        _promises.retry(again)
        self._show([future for future in again if not future._is_over()])

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Call a function once on every worker, and wait for the results.

        It runs as soon as all workers are free at the same time.

        Parameters
        ----------
        function : callable
        *args, **kwargs
            Its arguments.

        Returns
        -------
        dict of str to object
            The result of each worker.

        Examples
        --------
        >>> import os
        >>> from manyhands.distributed import Client
        >>> with Client(n_workers=2) as client:
        ...     len(set(client.run(os.getpid).values()))
        2
        """
        n_workers = 1 if self._engine.is_here() else self.cluster.n_workers
        if n_workers == 1 or self._engine.scheduler == "synchronous":
            return {"worker-0": self.submit(function, *args, **kwargs).result()}
        import tempfile

        from manyhands._meeting import attend

        with tempfile.TemporaryDirectory(prefix="manyhands-run-") as folder:
            futures = [
                self.submit(attend, folder, number, n_workers, function, args, kwargs) for number in range(n_workers)
            ]
            results = self.gather(futures)
        return {f"worker-{number}": result for number, result in enumerate(results)}


class _Weakly:
    """A client that may go."""

    def __init__(self, client: Client) -> None:
        from weakref import ref

        self._ref = ref(client)

    def __call__(self) -> Client | None:
        return self._ref()


def _in_block() -> dict[str, int] | None:
    """What the innermost block of `manyhands.resources` says, for calls that another thread is to make."""
    return None if _run.is_nested() else _native._needs_in_block() or None


# For code that has no client at hand


def get_client(*args: Any, **kwargs: Any) -> Client:
    """The client that lives; inside of a task one whose calls run at once, in the task.

    All workers are busy with tasks such as the one that asks, and further ones would only get in their way.

    Raises
    ------
    ValueError
        Outside of tasks, if there is none.

    Examples
    --------
    >>> from manyhands.distributed import Client, get_client
    >>> def total(n):
    ...     client = get_client()
    ...     return sum(client.gather(client.map(abs, range(-n, 0))))
    >>> with Client(n_workers=2) as client:
    ...     client.submit(total, 3).result()
    6
    """
    if _run.is_nested():
        return Client(LocalCluster(1, processes=False), set_as_default=False)
    return Client.current()


class worker_client:
    """`get_client` for a ``with``."""

    def __init__(self, timeout: float | None = None, separate_thread: bool = True) -> None:
        self._client: Client | None = None

    def __enter__(self) -> Client:
        self._client = get_client()
        return self._client

    def __exit__(self, *_: object) -> None:
        if self._client is not None and self._client._is_nested:
            self._client.close()
