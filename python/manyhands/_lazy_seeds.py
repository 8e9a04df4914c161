"""Seed sequences of NumPy's whose first words are known already.

Nearly all of the time that NumPy takes for a generator goes into hashing its seed sequence, in Python objects. The
engine does that in a fraction of it; here is the object that hands on what came of it.
"""

from __future__ import annotations

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# So many words of 64 bits are known: all that `PCG64`, `PCG64DXSM`, `Philox` and `SFC64` ask for.
N_WORDS = 4


class LazySeeds(np.random.SeedSequence):
    """What ``SeedSequence(entropy, spawn_key=(*key, number))`` is, made only where more is asked than the first words.

    These are in an array, those of the sequences before it in front of them.
    """

    __slots__ = ("_at", "_entropy", "_key", "_made", "_n_children", "_number", "_states")

    def __init__(
        self, states: Any, at: int, entropy: Any, key: tuple[int, ...], number: int, n_children: int = 0
    ) -> None:
        # Without the base class's, which does the hashing; and with few objects, as there may be a million of these.
        self._states = states
        self._at = at
        self._entropy = entropy
        self._key = key
        self._number = number
        self._n_children = n_children
        self._made: np.random.SeedSequence | None = None

    def whole(self) -> np.random.SeedSequence:
        """The sequence itself, always the same one."""
        if self._made is None:
            key = (*self._key, self._number)
            self._made = np.random.SeedSequence(self._entropy, spawn_key=key, n_children_spawned=self._n_children)
        return self._made

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        """The first words, as the sequence itself gives them."""
        if dtype is np.uint64 and 0 < n_words <= N_WORDS:
            begin = N_WORDS * self._at
            return self._states[begin : begin + n_words].copy()
        return self.whole().generate_state(n_words, dtype)

    def spawn(self, n_children: int) -> list[np.random.SeedSequence]:
        """Children of the sequence."""
        return self.whole().spawn(n_children)

    def __repr__(self) -> str:
        return repr(self.whole())

    def __reduce__(self) -> Any:
        # What arrives is NumPy's own.
        return self.whole().__reduce__()


def _delegated(name: str) -> Any:
    return property(lambda self: getattr(self.whole(), name))


for _name in ("entropy", "spawn_key", "pool_size", "n_children_spawned", "pool", "state"):
    setattr(LazySeeds, _name, _delegated(_name))
