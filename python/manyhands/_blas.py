"""The numeric libraries of this process, and how many threads they may use.

OpenBLAS, MKL and BLIS have one number for the process. OpenMP (libgomp, libiomp, libomp) has one for each thread that
makes use of it, so what is chosen holds in the thread that chooses and in those of pools.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from manyhands import _fork_safety, _native, _pools, _settings, _worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

N_THREADS_MAX = 10_000


class _Kind(NamedTuple):
    """Libraries of one origin: parts of their files' names, and what their functions are called."""

    name: str
    files: tuple[str, ...]
    functions: tuple[tuple[str, str], ...]
    variables: tuple[str, ...]
    is_wide: bool = False
    is_per_thread: bool = False


_OPENBLAS = tuple(
    (f"{prefix}openblas_set_num_threads{suffix}", f"{prefix}openblas_get_num_threads{suffix}")
    for prefix in ("", "scipy_")
    for suffix in ("", "64_", "_64")
)
_OPENMP = (("omp_set_num_threads", "omp_get_max_threads"),)
_KINDS = (
    _Kind(
        "OpenBLAS",
        ("openblas", "libblas"),
        _OPENBLAS,
        ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    ),
    _Kind(
        "MKL", ("libmkl_rt",), (("MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),), ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
    ),
    _Kind(
        "BLIS",
        ("libblis",),
        (("bli_thread_set_num_threads", "bli_thread_get_num_threads"),),
        ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
        is_wide=True,
    ),
    _Kind("OpenMP", ("libgomp", "libiomp", "libomp"), _OPENMP, ("OMP_NUM_THREADS",), is_per_thread=True),
)


class Library(NamedTuple):
    """A library that is loaded, and how many threads it uses."""

    name: str
    path: str
    n_threads: int


# A handle on each library, which keeps it loaded, with its kind, file, and the addresses of its functions.
_found: dict[str, tuple[Any, _Kind, int, int] | None] = {}
_addresses: set[int] = set()


def find(own: int = 0) -> None:
    """Have the engine know of libraries that have been loaded.

    Parameters
    ----------
    own : int
        How many threads those found now are to use by themselves; 0 for what they use now.
    """
    for path in sorted(_fork_safety._libraries() - _found.keys()):
        base = os.path.basename(path)
        kind = next((kind for kind in _KINDS if any(part in base for part in kind.files)), None)
        _found[path] = None
        for setter, getter in _functions(path, kind) if kind is not None else ():
            if setter[1] not in _addresses:
                assert kind is not None
                _addresses.add(setter[1])
                _found[path] = (setter[0], kind, setter[1], getter[1])
                is_free = not any(_pools.is_the_persons(name) for name in kind.variables)
                _native._blas_register(setter[1], getter[1], kind.is_wide, kind.is_per_thread, is_free, own)
                break


def _functions(path: str, kind: _Kind) -> Iterator[tuple[tuple[Any, int], tuple[Any, int]]]:
    import ctypes

    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:  # its file has been replaced; nothing can be asked of it by that name
        return
    for names in kind.functions:
        functions = [getattr(library, name, None) for name in names]
        if all(functions):
            setter, getter = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)  # type: ignore[arg-type]
            yield (library, setter), (library, getter)


def libraries() -> tuple[Library, ...]:
    """The libraries that are loaded, with the numbers of threads that they use in the calling thread.

    Returns
    -------
    tuple of Library
    """
    find()
    return tuple(
        Library(found[1].name, path, _native._blas_get(found[2], found[3], found[1].is_wide))
        for path, found in _found.items()
        if found is not None
    )


class _Choice:
    """What was chosen: by a statement, until it is taken back, or for a block."""

    __slots__ = ("is_block", "n_threads")

    def __init__(self, n_threads: int, is_block: bool) -> None:
        # 0 for what holds without any choice.
        self.n_threads = n_threads
        self.is_block = is_block


# Those in force, the one that counts last.
_chosen: list[_Choice] = []
#: What variables were before the first of them; None: not set.
variables_before: dict[str, str | None] = {}


def chosen() -> int:
    """What was chosen last and is still in force, here or by the parent of this worker; 0 if nothing was."""
    return _chosen[-1].n_threads if _chosen else _worker.chosen_threads()


def _apply() -> None:
    """Have libraries follow what is chosen, those of this process that are loaded and those that will be."""
    n_threads = chosen()
    _pools.blas_generation += 1
    if n_threads and _chosen:
        for name in _pools.THREAD_VARIABLES:
            variables_before.setdefault(name, os.environ.get(name))
            os.environ[name] = str(n_threads)
        find()
    else:
        for name, value in variables_before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        variables_before.clear()
        # Loaded meanwhile, they began with what was chosen then.
        find(own=n_threads or _share())
    _native._blas_choose(n_threads)


def _share() -> int:
    """How many CPUs this process, or the task of this thread, may use."""
    from manyhands import _plans

    level = _native.task_level() or _worker.level
    return _plans.n_cpus_of(level)


class blas_threads:
    """Have the numeric libraries use so many threads: for good as a statement, for a block in a ``with``.

    It changes every library that is loaded, in the running session: OpenBLAS, MKL, BLIS, OpenMP; those loaded later
    begin with it. Tasks of calls that are made meanwhile have it as well, wherever they run. Without it, each task has
    its share of the CPUs: those that there are, divided by the number of workers.

    It acts on the whole process. Of several that are in force, the last one counts; a statement stays in force for as
    long as the program runs, or until ``blas_threads(None)``.

    Parameters
    ----------
    n_threads : int or None
        At least 1. None takes back what statements have chosen before.

    Raises
    ------
    ValueError
        For any other number.

    Examples
    --------
    >>> import manyhands as mh
    >>> with mh.blas_threads(1) as libraries:
    ...     print({library.n_threads for library in libraries} <= {1})
    True
    """

    def __init__(self, n_threads: int | None) -> None:
        if n_threads is not None and (
            isinstance(n_threads, bool) or not hasattr(n_threads, "__index__") or not 1 <= n_threads <= N_THREADS_MAX
        ):
            raise ValueError(
                f"n_threads={n_threads!r} is not accepted. Accepted: an integer from 1 to {N_THREADS_MAX}, or None for "
                f"what holds without it."
            )
        self._n_threads = 0 if n_threads is None else int(n_threads)
        self._statement: _Choice | None = None
        self._taken_back: list[_Choice] = []
        self._blocks: list[_Choice] = []
        if n_threads is None:
            self._taken_back = [choice for choice in _chosen if not choice.is_block]
            _chosen[:] = [choice for choice in _chosen if choice.is_block]
        else:
            self._statement = _Choice(self._n_threads, is_block=False)
            _chosen.append(self._statement)
        _apply()

    def __enter__(self) -> tuple[Library, ...]:
        # It is no statement, then.
        if self._statement is not None:
            _remove(self._statement)
        _chosen[:0] = self._taken_back
        self._statement, self._taken_back = None, []
        block = _Choice(self._n_threads, is_block=True)
        self._blocks.append(block)
        _chosen.append(block)
        _apply()
        return libraries()

    def __exit__(self, *exc_info: object) -> None:
        _remove(self._blocks.pop())
        _apply()

    def __repr__(self) -> str:
        return f"blas_threads({self._n_threads or None})"


def _remove(choice: _Choice) -> None:
    """Whatever was chosen since stays in force."""
    _chosen[:] = [other for other in _chosen if other is not choice]


assert _settings.NUM_WORKERS_MAX <= N_THREADS_MAX
