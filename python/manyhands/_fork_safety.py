"""What does not survive a fork: found out before, so that there is an error instead of a hang.

A forked process has one thread. A library that keeps threads of its own waits for ever for threads that are not there,
unless it notices the fork:

* libgomp, the OpenMP of GCC (scikit-learn, LightGBM, PyTorch), does not, once it has been used; but it needs no threads
  where it may use only one, so forked workers allow it one.
* OpenBLAS does, in some releases imperfectly; it is allowed one thread, too. MKL, BLIS and LLVM's OpenMP do. PyArrow's
  threads do, those of its S3 and Flight clients do not.
* Rayon and Tokio, on which Polars and most libraries written in Rust run, do not; nor do gRPC, JAX and TensorFlow.
  Their threads are found by their names.
* CUDA cannot be used in a process forked from one that uses it.

Threads and locks of Python code cannot be judged from outside: a lock that another thread holds during the fork stays
locked in the new process.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The beginnings of the names of threads, as far as the system keeps them (15 bytes), and whose they are. A hash stands
#: for a number: importing Polars alone starts a thread that nobody waits for.
_THREADS_OF = {
    "polars-#": "Polars",
    "async-executor-": "Polars",
    "tokio-r": "a library that runs on Tokio (Polars, Delta Lake, Lance, obstore, ...)",
    "rayon": "a library that runs on Rayon",
    "grpc": "gRPC",
    "event_engine": "gRPC",
    "resolver-execut": "gRPC",
    "default-executo": "gRPC",
    "tf_": "TensorFlow or JAX",
    "jax_": "JAX",
    "AwsEventLoop": "the AWS client (pyarrow.fs.S3FileSystem)",
    "cuda-EvtHandlr": "CUDA",
}

_ADVICE = 'Use scheduler="processes", whose workers begin afresh'


def check() -> None:
    """Raise `ForkError` if forking this process now is known to end badly."""
    if sys.platform != "linux":
        raise _error(f'scheduler="fork" works on Linux only, and this is {sys.platform}', "")
    for name in _new_thread_names():
        for beginning, owner in _THREADS_OF.items():
            if name.startswith(beginning.rstrip("#")) and (beginning[-1] != "#" or name[-1].isdigit()):
                raise _error(
                    f"{owner} has been used in this process and keeps threads ({name!r}), which a forked worker would "
                    "not have and would wait for for ever",
                    ", or fork before it is first used",
                )
    if _is_cuda_used():
        raise _error(
            "CUDA has been used in this process, and does not work in a process forked from it",
            ", or fork before CUDA is first used",
        )


def _error(what: str, more: str) -> Exception:
    from manyhands.errors import ForkError

    return ForkError(f"{what}. {_ADVICE}{more}.")


# How often the name of each thread has been read and was harmless.
_n_harmless: dict[str, int] = {}
# A thread gets its name a moment after it begins, so one look does not do. With more, each submitted call would read
# the names of all threads, of which there may be hundreds.
_N_LOOKS = 2


def _forget() -> None:
    """In a forked process: it has other threads."""
    global _n_harmless
    _n_harmless = {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _new_thread_names() -> Iterator[str]:
    """The names of threads that have not been looked at often enough; asking for the next finds one harmless."""
    global _n_harmless
    before = _n_harmless
    now: dict[str, int] = {}
    for thread in _threads():
        n_looks = before.get(thread, 0)
        if n_looks < _N_LOOKS:
            try:
                with open(f"/proc/self/task/{thread}/comm", "rb", buffering=0) as file:
                    yield os.fsdecode(file.read()).rstrip("\n")
            except OSError:  # it has ended
                continue
        now[thread] = min(n_looks + 1, _N_LOOKS)
    _n_harmless = now


# Threads come and go, but not so many times while they are listed.
_N_LISTINGS_MAX = 100


def _threads() -> set[str]:
    """The numbers of this process's threads, all that are there throughout.

    The kernel ends a listing early, without a word, if the thread that it has come to ends meanwhile. That thread is
    the last of such a listing and cannot be in the next, so two that are equal are whole.
    """
    listed = set(os.listdir("/proc/self/task"))
    found = listed
    for _ in range(_N_LISTINGS_MAX):
        before, listed = listed, set(os.listdir("/proc/self/task"))
        if listed == before:
            break
        found |= listed
    return found


# Open in every process that has set the driver up.
_CUDA_DEVICE = "/dev/nvidia-uvm"


def _is_cuda_used() -> bool:
    """Whether the driver has been set up, where there is one."""
    if not os.path.exists(_CUDA_DEVICE):
        return False
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # it was that of the listing
            continue
        if target == _CUDA_DEVICE:
            return True
    return False


# In the forked process

# How to allow a library one thread: a part of its file's name, its function, the argument. No level of
# parallelism is active means that whatever number of threads code asks OpenMP for, it gets one.
_LIMITS = (
    ("libgomp", "omp_set_max_active_levels", 0),
    ("libgomp", "omp_set_num_threads", 1),
    ("openblas", "openblas_set_num_threads", 1),
    ("openblas", "openblas_set_num_threads64_", 1),
    ("openblas", "scipy_openblas_set_num_threads", 1),
    ("openblas", "scipy_openblas_set_num_threads64_", 1),
    ("libmkl_rt", "MKL_Set_Num_Threads", 1),
    ("libblis", "bli_thread_set_num_threads", 1),
    ("libiomp", "omp_set_num_threads", 1),
    ("libomp", "omp_set_num_threads", 1),
)

# The functions found among the libraries of this process, which had so many modules then.
_found: tuple[int, list[Callable[[], object]]] = (0, [])


def limit_threads() -> None:
    """Allow the numeric libraries that are loaded one thread each."""
    from manyhands._native import _blas_pin

    _blas_pin()
    for limit in find_limits():
        limit()


def find_limits() -> list[Callable[[], object]]:
    """What `limit_threads` calls; looked for again when modules have been imported.

    Not when something else has loaded a library: to count them by ``dl_iterate_phdr`` is to run Python code under a
    lock of the loader's, which threads wait for that have the interpreter's lock.
    """
    global _found
    n_modules = len(sys.modules)
    if _found[0] != n_modules:
        _found = (n_modules, list(_limits()))
    return _found[1]


def _limits() -> Iterator[Callable[[], object]]:
    names = {name for name, _, _ in _LIMITS}
    paths = {path for path in _libraries() if any(name in os.path.basename(path) for name in names)}
    if not paths:
        return
    import ctypes
    from functools import partial

    for path in sorted(paths):
        try:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:  # its file has been replaced; nothing can be asked of it by that name
            continue
        for name, function, argument in _LIMITS:
            if name in os.path.basename(path) and hasattr(library, function):
                yield partial(getattr(library, function), argument)


def _libraries() -> set[str]:
    """The files of the shared libraries of this process."""
    paths = set()
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            path = line.rstrip("\n").partition("/")
            if path[1] and ".so" in path[2]:
                paths.add("/" + path[2])
    return paths
