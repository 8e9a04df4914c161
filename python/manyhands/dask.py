"""Dask's collections on this engine: `get` is a scheduler for Dask.

>>> import dask
>>> import manyhands.dask
>>> square = dask.delayed(pow)(3, 2)
>>> with dask.config.set(scheduler=manyhands.dask.get):
...     square.compute()
9

The module is used by its whole name, so that ``dask`` remains Dask. It is not imported by ``import manyhands``, and
Dask is imported with the first graph. A graph goes to the engine as a whole, and intermediate results stay with it: in
shared memory, where tasks run in processes.
"""

from __future__ import annotations

from manyhands import _native, _run, _settings, config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
    from typing import Any

__all__ = ["get"]

#: Keywords of `get` itself.
_OWN = {
    "cache", "callbacks", "chunksize", "num_workers", "pool", "progress", "relay", "rerun_exceptions_locally",
    "resources", "retries", "retry_delay", "retry_on", "scheduler", "seed", "timeout",
}  # fmt: skip
# Of Dask's own schedulers: what is about their insides, or about whole collections, or means nothing where all workers
# are alike.
_OF_DASK = {
    "allow_other_workers", "direct", "dumps", "fifo_timeout", "func_dumps", "func_loads", "get_id", "loads",
    "optimize_graph", "pack_exception", "priority", "raise_exception", "traverse", "workers",
}  # fmt: skip
# What would change the outcome, with the values that do not.
_ONLY_AS = {"actors": (None, False), "asynchronous": (None, False), "sync": (None, True)}
#: All that `get` and Dask's own schedulers know; what comes by way of a client is to be among these.
KEYWORDS = frozenset(_OWN | _OF_DASK | _ONLY_AS.keys())

_known: _Known | None = None


def get(
    dsk: Mapping[Any, Any],
    keys: Any,
    *,
    scheduler: str | None = None,
    num_workers: int | None = None,
    chunksize: int | None = None,
    cache: Mapping[Any, Any] | None = None,
    callbacks: Iterable[Any] | None = None,
    rerun_exceptions_locally: bool | None = None,
    seed: Any = None,
    retries: int | None = None,
    retry_on: _run.RetryOn = None,
    retry_delay: float | None = None,
    timeout: float | None = None,
    relay: bool | str | None = None,
    resources: Mapping[str, int] | None = None,
    progress: Any = None,
    pool: None = None,
    **kwargs: Any,
) -> Any:
    """Compute a graph of Dask's; a scheduler for ``dask.config.set(scheduler=...)`` and ``compute(scheduler=...)``.

    Tasks of Dask's task specification and legacy tuples are both taken. What nobody asks for is not computed; what is
    no longer needed is let go of.

    Parameters
    ----------
    dsk : mapping
        Dask's graph: a dict, or whatever Dask makes of its collections.
    keys : hashable, or list of them, nested or not
        The keys of what is asked for.
    scheduler : str, optional
        ``"threads"``, ``"processes"``, ``"fork"`` or ``"synchronous"``. By default the configured one; where none has
        been configured, ``"threads"``, which Dask's arrays and dataframes are made for: graphs may write to objects of
        this process, and NumPy and pandas compute in several threads at once, where they let go of the interpreter.
        Functions of plain Python, as in bags, take turns in threads; ``"processes"`` has them run at once. Inside of a
        task, where all workers are busy, the graph runs in this thread.
    num_workers : int, optional
        How many workers; by default what Dask's configuration says, else the configured number.
    chunksize : int, optional
        Exactly so many tasks at a time to each worker. By default, and with -1, batches follow the measured time of the
        tasks.
    cache : mapping, optional
        Results that are there already, by key; these are not computed.
    callbacks : iterable of tuples, optional
        Dask's callbacks; by default those that are active, such as ``dask.diagnostics.ProgressBar``.
        Those that want to see each result have the graph run task by task, by Dask's own loop, on these workers.
    rerun_exceptions_locally : bool, optional
        Whether a task that fails is run again in this thread, for a debugger.
    seed, retries, retry_on, retry_delay, timeout, relay, resources, progress : optional
        As for `manyhands.compute`. What single tasks need is said by ``dask.annotate(resources={...})``, which goes
        before what the call says. A graph that Dask's own loop runs, for callbacks or `rerun_exceptions_locally`, can
        neither have resources nor be shown.
    pool : None
        Not accepted: the workers are the engine's. Say `num_workers`.
    **kwargs
        Other keywords change nothing, whatever they are, as with Dask's own schedulers.

    Returns
    -------
    object
        The result; for a list of keys a tuple of results, of the same shape.

    Raises
    ------
    Exception
        What a task raised, with a note that names it.
    KeyError, ValueError, RuntimeError
        If a key is not in the graph, a task refers to one that is not, or tasks need each other in a circle.
    TypeError
        For a `pool`, and for ``asynchronous=True`` and the like, which would change what is returned.
    ConfigError
        For resources that can never be had, or not in this way.
    PicklingError, WorkerDied, ForkError
        As for `manyhands.compute`.

    Examples
    --------
    >>> import manyhands.dask
    >>> graph = {"x": 1, "y": (abs, -2), "sum": (sum, ["x", "y"])}
    >>> manyhands.dask.get(graph, ["sum", ["y"]])
    (3, (2,))
    """
    if pool is not None:
        raise TypeError(
            f"manyhands.dask.get() runs tasks on workers of its own and takes no pool, but was given {pool!r:.80}. "
            "Say how many workers there are to be with num_workers=..., and of which kind with "
            'manyhands.config.set(scheduler="threads") or "processes".'
        )
    _refuse_unsupported(kwargs)
    known = _known or _learn()
    graph, needs = known.graph(dsk, cache)
    wanted = list(_flat(keys))
    if num_workers is None:
        num_workers = known.configured("num_workers")
    if chunksize == -1:
        chunksize = None
    with known.active_callbacks(callbacks) as active:
        if scheduler is None and not config.is_chosen("scheduler") and not _run.is_nested():
            scheduler = "threads"
        where = (scheduler, num_workers, chunksize, resources)
        ways = _Ways(where, needs, seed, (retries, retry_on, retry_delay, timeout), relay, progress)
        if rerun_exceptions_locally is None:
            rerun_exceptions_locally = known.configured("rerun_exceptions_locally")
        if rerun_exceptions_locally or (active and known.want_results(active)):
            ways.refuse_resources()
            return known.run_by_dask(graph, keys, active, bool(rerun_exceptions_locally), ways)
        if active:
            results = _Observed(active, graph).run(wanted, ways)
        else:
            results = ways.run(graph, wanted, None)
    if not isinstance(keys, list):
        return results[0]
    remaining = iter(results)
    return _nested(keys, remaining)


def _refuse_unsupported(kwargs: dict[str, Any]) -> None:
    for name in kwargs.keys() & _ONLY_AS.keys():
        if kwargs[name] not in _ONLY_AS[name]:
            raise TypeError(
                f"manyhands.dask.get({name}={kwargs[name]!r}) is not supported: it waits for the results, of tasks "
                f"that leave nothing behind. Accepted: {', '.join(map(repr, _ONLY_AS[name]))}."
            )


class _Ways:
    """How a graph is to be run: the keywords of a call."""

    def __init__(
        self,
        where: tuple[Any, ...],
        needs: dict[Any, dict[str, int]] | None,
        seed: Any,
        fates: tuple[Any, ...],
        relay: bool | str | None,
        progress: Any,
    ) -> None:
        self.where = where
        self.needs = needs
        self.seed = seed
        self.fates = fates
        self.relay = relay
        self.progress = progress

    def run(
        self, graph: dict[Any, Any], wanted: list[Any], on_finished: Callable[[list[Any]], None] | None
    ) -> list[Any]:
        """The results of some keys, by the engine."""
        with _run._shown(self.progress, "dask") as track:
            manner = _run._manner(self.relay)
            if self.needs:
                from manyhands import _resources  # noqa: F401 - from now on there is an account of them
            name, n_workers, batch_size, pool, asking = _run._where_asking(*self.where)
            _run._placed(name, n_workers)
            faults = _run._faults(name, "raise", *self.fates)
            tally = None if track is None else track.tally
            told = (_run._root(self.seed), on_finished, manner, faults, tally, self.needs, asking)
            try:
                return _native.run_graph(graph, wanted, _known, pool, batch_size, name, *told)
            except KeyboardInterrupt as error:
                _run._interrupted(error, name)
                raise

    def refuse_resources(self) -> None:
        """Dask's own loop hands over one task after the other, and does not say which."""
        asked = [self.where[3] or {}, *(self.needs or {}).values()]
        for amounts in filter(None, asked):
            raise _settings.error(
                f"resources={amounts!r} cannot be had where Dask's own loop runs the graph, for callbacks that are "
                "given each result or rerun_exceptions_locally=True: leave those out."
            )


def _flat(keys: Any) -> Iterator[Any]:
    """The keys in lists of lists."""
    if isinstance(keys, list):
        for part in keys:
            yield from _flat(part)
    else:
        yield keys


def _nested(keys: Any, results: Iterator[Any]) -> Any:
    """Results in the order of `_flat`, in the shape of the keys."""
    if isinstance(keys, list):
        return tuple(_nested(part, results) for part in keys)
    return next(results)


def _needs_of(dsk: Any) -> dict[Any, dict[str, int]] | None:
    """What the tasks of some keys need, as ``dask.annotate`` has said; None if none needs anything."""
    if hasattr(dsk, "__dask_annotations__"):
        by_key = dsk.__dask_annotations__().get("resources", {})
        _warn_of_lost([getattr(part, "hlg", None) for part in (dsk, *dsk.operands)], by_key)
    else:
        by_key = {key: amounts for layer, amounts in _asking_layers(dsk) for key in layer}
    if not by_key:
        return None
    from manyhands import _resources

    said = {key: amounts(key) if callable(amounts) else amounts for key, amounts in by_key.items()}
    return {key: _resources.units_by_name(amounts, "dask.annotate(resources)") for key, amounts in said.items()}


def _asking_layers(graph: Any) -> list[tuple[Any, Any]]:
    """The layers of a graph, if it has any, that say what their tasks need."""
    layers = getattr(graph, "layers", None)
    annotated = [layer for layer in layers.values() if layer.annotations] if isinstance(layers, dict) else []
    return [(layer, layer.annotations["resources"]) for layer in annotated if "resources" in layer.annotations]


def _warn_of_lost(graphs: list[Any], by_key: Mapping[Any, Any]) -> None:
    """Say what Dask has forgotten when it made fewer tasks of many."""
    for graph in graphs:
        for layer, amounts in _asking_layers(graph):
            if not any(key in by_key for key in layer):
                import warnings

                warnings.warn(
                    f"dask.annotate(resources={amounts!r}) has no effect here: Dask has fused the tasks and lost what "
                    "was said of them. To have it kept: compute(optimize_graph=False); for arrays and delayed objects, "
                    "dask.config.set({'optimization.fuse.active': False}) is enough.",
                    stacklevel=2,
                )
                return


def _learn() -> _Known:
    global _known
    if _known is None:
        _known = _Known()
    return _known


class _Known:
    """What is known of the installed Dask: its classes, which the engine tells apart, and some of its functions."""

    def __init__(self) -> None:
        try:
            import dask
            from dask import _task_spec as spec
            from dask import callbacks, local
        except ImportError as error:
            from manyhands.errors import Error

            raise Error(
                "manyhands.dask needs Dask with its task specification, version 2025.1 or newer; "
                f"the import of it has failed: {error}"
            ) from error
        from manyhands import _fused

        self.task = spec.Task
        self.alias = spec.Alias
        self.data_node = spec.DataNode
        self.task_ref = spec.TaskRef
        self.graph_node = spec.GraphNode
        self.list = spec.List
        self.tuple = spec.Tuple
        self.set = spec.Set
        self.dict = spec.Dict
        self.execute_subgraph = spec._execute_subgraph
        self.program = _fused.Program
        self.call_node = _fused.call_node
        self.list_of = _fused.list_of
        self.tuple_of = _fused.tuple_of
        self.set_of = _fused.set_of
        self.dict_of = _fused.dict_of
        self._convert = spec.convert_legacy_graph
        self._get_sync = local.get_sync
        self._get_async = local.get_async
        self._config = dask.config
        self._callbacks = callbacks

    def configured(self, key: str) -> Any:
        """What Dask's configuration says."""
        return self._config.get(key, None)

    def graph(
        self, dsk: Any, cache: Mapping[Any, Any] | None
    ) -> tuple[dict[Any, Any], dict[Any, dict[str, int]] | None]:
        """A dict of nodes, whatever it was; and what the tasks of some keys need, if any do."""
        needs = _needs_of(dsk)
        if hasattr(dsk, "__dask_graph__"):
            dsk = dsk.__dask_graph__()
        graph = dsk if type(dsk) is dict else dict(dsk)
        if cache:
            graph = {**graph, **{key: self.data_node(key, value) for key, value in cache.items()}}
        node = self.graph_node
        if all(isinstance(value, node) for value in graph.values()):
            return graph, needs
        converted: dict[Any, Any] = self._convert(graph)
        return converted, needs

    def active_callbacks(self, callbacks: Iterable[Any] | None) -> Any:
        """The callbacks of this call, in a ``with`` in which there are none for those it makes in turn."""
        return self._callbacks.local_callbacks(
            None if callbacks is None else [self._callbacks.normalize_callback(one) for one in callbacks]
        )

    @staticmethod
    def want_results(active: Iterable[tuple[Any, ...]]) -> bool:
        """Whether one of them has to be told of each result."""
        return any(one[3] for one in active)

    def run_by_dask(
        self,
        graph: dict[Any, Any],
        keys: Any,
        active: Iterable[Any],
        rerun_exceptions_locally: bool,
        ways: _Ways,
    ) -> Any:
        """Have Dask's own loop run the tasks one by one on the engine's workers."""
        scheduler, num_workers, *_ = ways.where
        name, n_workers, _, pool = _run._where(scheduler, num_workers, None)
        options: dict[str, Any] = {
            "callbacks": list(active),
            "rerun_exceptions_locally": rerun_exceptions_locally,
            "get_id": _worker_id,
            "pack_exception": _pack_exception,
        }
        if name == "synchronous":
            return self._get_sync(graph, keys, **options)
        submit = _Submit(pool, name, n_workers, ways)
        if name in ("processes", "fork"):
            import cloudpickle
            from dask import multiprocessing

            options.update(
                dumps=cloudpickle.dumps,
                loads=cloudpickle.loads,
                pack_exception=multiprocessing.pack_exception,
                raise_exception=multiprocessing.reraise,
            )
        return self._get_async(submit, n_workers, graph, keys, **options)


class _Submit:
    """How Dask's loop hands over a task."""

    def __init__(self, pool: Any, scheduler: str, n_workers: int, ways: _Ways) -> None:
        self._pool = pool
        self._scheduler = scheduler
        self._n_workers = n_workers
        self._ways = ways

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        from manyhands._future import Future

        # A pool of forked workers lives for one call.
        pool: Any = self._pool
        if self._scheduler == "fork":
            pool = _run._where("fork", self._n_workers, None)[3]
        pickle = _run._pickled(pool, function)
        root = _run._root(self._ways.seed, is_single=True)
        manner = _run._manner(self._ways.relay)
        faults = _run._faults(self._scheduler, "raise", *self._ways.fates)
        call = _native.Pending(pool, function, pickle, args, {}, self._scheduler, root, manner, faults)
        future: Future[Any] = Future(call)
        return future


def _worker_id() -> tuple[int, int]:
    import os
    import threading

    return os.getpid(), threading.get_ident()


def _pack_exception(error: BaseException, dumps: Callable[[Any], Any]) -> Any:
    return dumps((error, error.__traceback__))


class _Observed:
    """A graph under way that callbacks hear of, with Dask's account of it, as far as the engine knows it."""

    def __init__(self, active: Iterable[tuple[Any, ...]], graph: dict[Any, Any]) -> None:
        self._active = list(active)
        self._graph = graph
        self._state: dict[str, Any] = {
            "dependencies": {},
            "dependents": {},
            "waiting": {},
            "waiting_data": {},
            "cache": {},
            "ready": [],
            "running": set(),
            "finished": set(),
            "released": set(),
        }

    def run(self, wanted: list[Any], ways: _Ways) -> list[Any]:
        state = self._state
        state["waiting"] = dict.fromkeys(_needed(self._graph, wanted), ())
        started = []
        has_succeeded = False
        try:
            for one in self._active:
                if one[0]:
                    one[0](self._graph)
                started.append(one)
            for one in self._active:
                if one[1]:
                    one[1](self._graph, state)
            results = ways.run(self._graph, wanted, self._on_finished)
            has_succeeded = True
        finally:
            for one in started:
                if one[4]:
                    one[4](self._graph, state, not has_succeeded)
        return results

    def _on_finished(self, keys: list[Any]) -> None:
        state = self._state
        for key in keys:
            state["waiting"].pop(key, None)
            state["running"].add(key)
            for one in self._active:
                if one[2]:
                    one[2](key, self._graph, state)
            state["running"].discard(key)
            state["finished"].add(key)


def _needed(graph: dict[Any, Any], wanted: list[Any]) -> Iterator[Hashable]:
    """The keys of the tasks that some results need."""
    assert _known is not None
    others = (_known.alias, _known.data_node)
    seen = set()
    stack = list(wanted)
    while stack:
        key = stack.pop()
        if key in seen or key not in graph:
            continue
        seen.add(key)
        node = graph[key]
        if not isinstance(node, others):
            yield key
        stack.extend(node.dependencies)
