"""Streams of random numbers for code that runs in parallel.

`map` and `compute` give each task a stream of its own where they are given a ``seed``. Here are the same streams for
code that deals them out itself, and R's generator for streams that R knows.

>>> import manyhands as mh
>>> rngs = mh.random.streams(4, seed=1)
>>> mh.map(lambda rng: int(rng.integers(100)), rngs)
[1, 94, 42, 18]

All generators of NumPy are here as NumPy has them: a stream has the very numbers that NumPy gives for the same seed.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Sequence

from manyhands import _native
from manyhands._native import MRG32k3a, _mt19937_jumped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    import numpy as np

__all__ = ["MRG32k3a", "streams"]

_OF_NUMPY = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_ACCEPTED = (*_OF_NUMPY, "MRG32k3a")


def streams(
    n: int,
    seed: Any = None,
    bit_generator: str = "PCG64",
    method: Literal["spawn", "jumped"] = "spawn",
) -> Sequence[np.random.Generator]:
    """Random number generators for `n` tasks, none of which share a number.

    Parameters
    ----------
    n : int
        How many. They are made when they are first asked for, so a million of them cost nothing yet.
    seed : int, sequence of int, or numpy.random.SeedSequence, optional
        Equal seeds give equal streams. By default the system is asked for one. A seed sequence is left as it is.
    bit_generator : str, default "PCG64"
        ``"PCG64"``, ``"PCG64DXSM"``, ``"MT19937"``, ``"Philox"``, ``"SFC64"``, each exactly as NumPy's class of that
        name, or ``"MRG32k3a"``.
    method : {"spawn", "jumped"}, default "spawn"
        How stream i is made. ``"spawn"``: ``bit_generator(SeedSequence(seed).spawn(n)[i])``, which every generator can
        do, and streams can spawn further. ``"jumped"``: ``bit_generator(seed).jumped(i)``, parts of one sequence that
        are sure not to overlap; SFC64 cannot do it, and of MRG32k3a it is R's i-th next stream.

    Returns
    -------
    sequence of numpy.random.Generator
        Asked twice for one stream, it gives the same object, wherever that is by then.

    Raises
    ------
    ValueError
        For a generator or a method that there is not, and for a negative `n`.

    Examples
    --------
    >>> import manyhands as mh
    >>> import numpy as np
    >>> rng = mh.random.streams(1_000_000, seed=1)[999_999]
    >>> same = np.random.default_rng(np.random.SeedSequence(1, spawn_key=(999_999,)))
    >>> bool(rng.random() == same.random())
    True
    """
    n_streams = operator.index(n)
    if n_streams < 0:
        raise ValueError(f"n={n!r} is not accepted: at least 0 streams")
    if bit_generator not in _ACCEPTED:
        raise ValueError(f"bit_generator={bit_generator!r} is not known. Accepted: {', '.join(map(repr, _ACCEPTED))}.")
    if method not in ("spawn", "jumped"):
        raise ValueError(f"method={method!r} is not known. Accepted: 'spawn', 'jumped'.")
    make = _spawned(bit_generator, seed) if method == "spawn" else _jumped(bit_generator, seed)
    return _Streams(n_streams, make)


def _kind(bit_generator: str) -> Any:
    import numpy as np

    return getattr(np.random, bit_generator) if bit_generator in _OF_NUMPY else MRG32k3a


def _sequence(seed: Any) -> Any:
    import numpy as np

    if not isinstance(seed, np.random.SeedSequence):
        return np.random.SeedSequence(seed)
    # That of a stream that was made here.
    lazy = sys.modules.get("manyhands._lazy_seeds")
    return seed.whole() if lazy is not None and isinstance(seed, lazy.LazySeeds) else seed


def _spawned(bit_generator: str, seed: Any) -> Callable[[int], Any]:
    kind, root = _kind(bit_generator), _sequence(seed)
    first, key = root.n_children_spawned, tuple(root.spawn_key)

    def make(index: int) -> Any:
        # What `root.spawn` would make, without making all those before and without counting.
        child = type(root)(root.entropy, spawn_key=(*key, first + index), pool_size=root.pool_size)
        return kind(child)

    return _from_states(kind, root, make) if _is_known(kind, root) else make


# How many states are made at once: whoever wants only one pays for these what NumPy takes for that one.
_N_STATES = 64
_N_STREAMS_KNOWN = 1 << 63


def _is_known(kind: Any, root: Any) -> bool:
    """Whether the engine knows the states of the streams."""
    import numpy as np

    is_of_few_words = kind.__name__ in ("PCG64", "PCG64DXSM", "Philox", "SFC64")
    return is_of_few_words and type(root) is np.random.SeedSequence and root.pool_size == 4


def _from_states(kind: Any, root: Any, make_by_numpy: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same, with states made by the engine."""
    import numpy as np

    from manyhands import _seeding
    from manyhands._lazy_seeds import LazySeeds

    streams = _seeding.root(root)
    entropy, key, first = root.entropy, streams.key, streams.first
    words = _seeding._words(key)
    # The last block of states that was made, with its first number. Threads may replace it at any time.
    last: list[tuple[int, Any]] = [(-_N_STATES, None)]

    def make(index: int) -> Any:
        number = first + index
        begin, states = last[0]
        if not 0 <= number - begin < _N_STATES:
            if number >= _N_STREAMS_KNOWN:
                return make_by_numpy(index)
            begin = number - number % _N_STATES
            packed = _native._seed_states(streams.words, words, begin, _N_STATES)
            states = np.frombuffer(packed, np.uint64)
            last[0] = begin, states
        return kind(LazySeeds(states, number - begin, entropy, key, number))

    return make


def _jumped(bit_generator: str, seed: Any) -> Callable[[int], Any]:
    if bit_generator == "MRG32k3a":
        return MRG32k3a(seed).next_stream
    sequence = _sequence(seed)
    base = _kind(bit_generator)(sequence)
    if bit_generator == "MT19937":
        return lambda index: _twister_jumped(base, sequence, index)
    if not hasattr(base, "jumped"):
        raise ValueError(f"{bit_generator} has no jumps; use method='spawn', or another bit generator")
    make: Callable[[int], Any] = base.jumped
    return make


def _twister_jumped(base: Any, sequence: Any, index: int) -> Any:
    """`base.jumped(index)`, for which NumPy takes `index` times as long as for one jump.

    What it is seeded with, which its own children descend from, is a child of the seed's that no other stream has.
    """
    import numpy as np

    state = base.state["state"]
    key, pos = _mt19937_jumped(state["key"].tobytes(), state["pos"], index)
    own = type(sequence)(sequence.entropy, spawn_key=(*sequence.spawn_key, index), pool_size=sequence.pool_size)
    jumped: Any = np.random.MT19937(own)
    jumped.state = {"bit_generator": "MT19937", "state": {"key": np.frombuffer(key, np.uint32), "pos": pos}}
    return jumped


class _Streams(Sequence):  # type: ignore[type-arg]
    """Generators that are made when they are first asked for."""

    def __init__(self, n_streams: int, make: Callable[[int], Any]) -> None:
        import numpy as np

        self._n_streams = n_streams
        self._make = make
        self._generator = np.random.Generator
        self._made: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._n_streams

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(self._n_streams)[index]]
        try:
            number = range(self._n_streams)[index]
        except IndexError:
            raise IndexError(f"there are {self._n_streams} streams, and none is number {index}") from None
        return self._made.get(number) or self._first_time(number)

    def _first_time(self, number: int) -> Any:
        # Another thread may have been faster.
        return self._made.setdefault(number, self._generator(self._make(number)))

    def __iter__(self) -> Iterator[Any]:
        known, make = self._made.get, self._first_time
        for number in range(self._n_streams):
            yield known(number) or make(number)

    def __repr__(self) -> str:
        return f"<{self._n_streams} streams of random numbers>"

    def __reduce__(self) -> Any:
        # In a pickle it is a list, with its generators wherever they are.
        return list, (list(self),)


# Pickles of NumPy's generators around bit generators that are not NumPy's


def _generator(bit_generator: Any) -> np.random.Generator:
    import numpy as np

    return np.random.Generator(bit_generator)


def _reduce(generator: Any) -> Any:
    """How a generator is pickled: NumPy's own way reads back only those around bit generators of NumPy's."""
    if isinstance(generator.bit_generator, MRG32k3a):
        return _generator, (generator.bit_generator,)
    return generator.__reduce__()


_are_pickled = False


def _have_generators_pickled() -> None:
    """Have a generator of NumPy's pickled so that it can be read back. Called when there is the first MRG32k3a."""
    global _are_pickled
    if not _are_pickled:
        import copyreg

        import numpy as np

        copyreg.pickle(np.random.Generator, _reduce)
        _are_pickled = True
