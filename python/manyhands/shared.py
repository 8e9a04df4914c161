"""Arrays in memory that this process and its workers share.

Nothing here is needed: large arguments and results travel through shared memory by themselves, copied once however many
tasks name them, and not again for as long as they stay as they are. An array that is *born shared* saves that one copy
too.

>>> import manyhands as mh
>>> import numpy as np
>>> data = mh.shared.zeros((1000, 100))
>>> data[:] = np.arange(100)
>>> [float(mean) for mean in mh.map(np.mean, [data, data])]
[49.5, 49.5]

Workers see what the array holds while their task runs, and what they write to it they alone see. So an array that is
born shared must not be changed while a task that was given it is under way, which only `submit` and `stream` allow.

A part of an array whose elements lie apart, such as ``data[::2]`` or ``data[:, 3:]``, arrives as an array in one piece:
equal, with its axes in the same order in memory, and with strides of its own. ``bytes`` and ``bytearray`` objects of
64 KiB and more travel through shared memory wherever they are, and with them what a class pickles as bytes: frames of
Polars, masked arrays. Arrays of Python objects, and text, are pickled.

Where there is no shared memory to be had, ordinary memory takes its place; so it does for arrays below the configured
``shared_memory.threshold``, which are copied faster than shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from manyhands import _native, _pools

if TYPE_CHECKING:
    from typing import Any, Literal

    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike

__all__ = ["Info", "allocator", "asarray", "empty", "info", "zeros"]


class allocator:
    """Have NumPy's own large arrays born shared, in a ``with`` block.

    Whatever allocates inside the block: arithmetic, `numpy.concatenate`, reading a file, pandas where it uses NumPy.
    It holds for the present thread, or the present task of asyncio. Arrays made in the block may be used outside.

    Raises
    ------
    ImportError
        If there is no NumPy.
    RuntimeError
        If NumPy is older than 1.22.

    Examples
    --------
    >>> import manyhands as mh
    >>> import numpy as np
    >>> with mh.shared.allocator():
    ...     squares = np.arange(100_000) ** 2
    >>> mh.map(int, [squares.max()])
    [9999800001]
    """

    def __init__(self) -> None:
        # What NumPy used before each block that is open.
        self._before: list[object] = []

    def __enter__(self) -> allocator:
        _pools.share()
        _native._prepare_sharing()
        self._before.append(_native._begin_sharing())
        return self

    def __exit__(self, *exc_info: object) -> None:
        _native._end_sharing(self._before.pop())


def empty(
    shape: int | tuple[int, ...], dtype: DTypeLike = float, order: Literal["C", "F"] = "C"
) -> np.ndarray[Any, Any]:
    """A new array in shared memory with whatever it finds there.

    Parameters
    ----------
    shape : int or tuple of int
        Its length in each dimension.
    dtype : data-type, optional
        The type of its elements.
    order : {"C", "F"}, optional
        Whether the last or the first dimension is contiguous.

    Returns
    -------
    numpy.ndarray

    Examples
    --------
    >>> import manyhands as mh
    >>> mh.shared.empty((500, 400), order="F").shape
    (500, 400)
    """
    import numpy as np

    with allocator():
        array: np.ndarray[Any, Any] = np.empty(shape, dtype, order)
    return array


def zeros(
    shape: int | tuple[int, ...], dtype: DTypeLike = float, order: Literal["C", "F"] = "C"
) -> np.ndarray[Any, Any]:
    """A new array of zeros in shared memory.

    Parameters
    ----------
    shape, dtype, order
        As for `empty`.

    Returns
    -------
    numpy.ndarray

    Examples
    --------
    >>> import manyhands as mh
    >>> mh.shared.zeros(100_000).sum()
    np.float64(0.0)
    """
    import numpy as np

    with allocator():
        array: np.ndarray[Any, Any] = np.zeros(shape, dtype, order)
    return array


def asarray(array: ArrayLike, dtype: DTypeLike | None = None) -> np.ndarray[Any, Any]:
    """An array with these contents in shared memory: the same one if it is there already, else a copy.

    Parameters
    ----------
    array : array_like
        An array, or anything that `numpy.asarray` takes. Python objects as elements cannot be shared: such an array is
        returned as it is.
    dtype : data-type, optional
        The type of the elements; by default that of `array`.

    Returns
    -------
    numpy.ndarray

    Examples
    --------
    >>> import manyhands as mh
    >>> import numpy as np
    >>> data = mh.shared.asarray(np.ones(100_000))
    >>> mh.shared.asarray(data) is data
    True
    """
    import numpy as np

    with allocator():
        found: np.ndarray[Any, Any] = np.asarray(array, dtype)
        is_whole = found.flags.c_contiguous or found.flags.f_contiguous
        address = found.__array_interface__["data"][0]
        if found.dtype.hasobject or (is_whole and _native._is_shared(address, found.nbytes)):
            return found
        copy: np.ndarray[Any, Any] = found.copy("K")
    return copy


class Info(NamedTuple):
    """What there is of shared memory; see `info`."""

    n_segments: int
    """Stretches of shared memory that this process has made."""
    n_bytes: int
    """Bytes of them in use: arrays born shared, and copies of arguments."""
    n_bytes_kept: int
    """Bytes that are free, and kept for what comes next."""
    n_bytes_of_results: int
    """Bytes of workers' memory in which results lie that this process still has."""
    n_bytes_waiting: int
    """Bytes of memory that large results take which nobody has read yet; ``memory_limit`` is about these."""
    n_bytes_on_disk: int
    """Bytes of results that were put on disk, as there was no room for them in memory, and are there still."""
    n_bytes_spilled: int
    """Bytes that were put there since the program began."""
    n_copies_made: int
    """How often a large buffer of an argument, a function or a result was copied into shared memory."""
    n_bytes_copied: int
    """The bytes of those."""
    n_copies_avoided: int
    """How often that was not needed: it was there already, and unchanged."""
    n_bytes_avoided: int
    """The bytes of those."""


def info() -> Info:
    """What there is of shared memory now, and what has been copied into it since the program began.

    Returns
    -------
    Info

    Examples
    --------
    >>> import manyhands as mh
    >>> import numpy as np
    >>> before = mh.shared.info()
    >>> data = np.ones(100_000)
    >>> _ = mh.map(np.sum, [data] * 5, scheduler="processes")
    >>> after = mh.shared.info()
    >>> after.n_copies_made - before.n_copies_made, after.n_copies_avoided - before.n_copies_avoided
    (1, 4)
    """
    return Info(**_native._sharing_info())
