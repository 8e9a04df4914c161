"""The workers of `manyhands.distributed`, and what of Dask's keywords there is no use for."""

from __future__ import annotations

from manyhands import config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from manyhands.distributed import Client

__all__ = ["CLIENT_KEYWORDS", "LocalCluster", "refuse_actors", "refuse_asynchronous", "refuse_unknown"]

# Of Dask's cluster, what means nothing where there is no network.
_CLUSTER_KEYWORDS = {
    "dashboard_address", "diagnostics_port", "host", "interface", "ip", "loop", "memory_limit", "name",
    "protocol", "scheduler_port", "security", "silence_logs", "start", "worker_dashboard_address",
}  # fmt: skip
CLIENT_KEYWORDS = _CLUSTER_KEYWORDS | {"direct_to_workers", "heartbeat_interval", "timeout"}


class LocalCluster:
    """So many workers of this machine.

    They are those of the engine, which are started with the first call and kept for the next: making and closing a
    cluster costs nothing.

    Parameters
    ----------
    n_workers : int, optional
        How many; by default the configured number, else `manyhands.cpu_count`.
    threads_per_worker : int, optional
        Each worker runs one call at a time, so this multiplies their number. By default 1.
    processes : bool, optional
        Whether workers are processes or threads. By default what is configured, else processes.
    **kwargs
        Further keywords of Dask's cluster, such as `dashboard_address`, change nothing.

    Raises
    ------
    TypeError
        For a keyword that Dask's cluster does not have either, and for ``asynchronous=True``.

    Examples
    --------
    >>> from manyhands.distributed import Client, LocalCluster
    >>> with LocalCluster(n_workers=2, processes=False) as cluster, Client(cluster) as client:
    ...     client.submit(abs, -1).result()
    1
    """

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        processes: bool | None = None,
        *,
        asynchronous: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_asynchronous("LocalCluster", asynchronous)
        refuse_unknown("LocalCluster", kwargs, _CLUSTER_KEYWORDS)
        configured, n_configured, _ = config.resolve(None, n_workers, None)
        if processes is None:
            scheduler = configured if configured in ("threads", "synchronous") else "processes"
        else:
            scheduler = "processes" if processes else "threads"
        self.scheduler = scheduler
        self.n_workers = n_configured * (threads_per_worker or 1)

    def __repr__(self) -> str:
        return f"LocalCluster(scheduler={self.scheduler!r}, n_workers={self.n_workers})"

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_client(self) -> Client:
        """A client of this cluster."""
        from manyhands.distributed import Client

        return Client(self)

    def close(self, timeout: float | None = None) -> None:
        """Do nothing: the workers are the engine's, and end when they have been idle for long."""


def refuse_asynchronous(name: str, asynchronous: bool | None) -> None:
    if asynchronous:
        raise TypeError(
            f"{name}(asynchronous=True) is not supported: leave it out. Futures can be awaited in any case: "
            "await client.submit(f, x)"
        )


def refuse_unknown(name: str, kwargs: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(kwargs.keys() - known)
    if unknown:
        raise TypeError(f"{name}() got unexpected keywords: {', '.join(unknown)}")


def refuse_actors(*asked: Any) -> None:
    if any(asked):
        raise TypeError("actors are not supported by manyhands.distributed: its workers keep nothing between calls")
