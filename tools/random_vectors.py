"""Write the numbers that the tests of crates/random expect, as the installed NumPy gives them.

    python tools/random_vectors.py > crates/random/tests/data/numpy.txt

Each line is one case, in fields between semicolons, in hexadecimal: the class; the words of the seed; those of the
spawn key; how many 32-bit numbers are drawn before a jump; how many jumps; the state after it; five 64-bit draws, three
32-bit draws, two 64-bit draws and the bits of a double, in this order. `SeedSequence` has eight 32-bit words instead.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

SEEDS = [([0], []), ([1], []), ([1], [0]), ([1], [9, 2]), ([0x9E3779B9, 7, 8, 9, 10], [3]), ([2, 3], [])]
JUMPS = [(0, 0), (1, 0), (0, 1), (1, 1), (700, 1), (3, 2), (5, 1000)]
FEW_JUMPS = [(0, 0), (0, 1), (700, 1), (3, 2), (5, 37)]
GENERATORS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]


def words(numbers: Any) -> str:
    """Numbers in hexadecimal."""
    return " ".join(f"{int(number):x}" for number in numbers)


def fingerprint(key: Any) -> int:
    """FNV-1a of the 624 words of a Mersenne Twister, which would fill the file."""
    result = 0xCBF29CE484222325
    for word in key:
        result = (result ^ int(word)) * 0x100000001B3 % 2**64
    return result


def state_of(generator: Any) -> list[int]:
    """The state as the tests write it."""
    state = generator.state
    inner = state["state"]
    half = [state.get("has_uint32", 0), state.get("uinteger", 0)]
    if state["bit_generator"] == "MT19937":
        return [fingerprint(inner["key"]), inner["pos"]]
    if state["bit_generator"] == "Philox":
        return [*inner["counter"], *inner["key"], *state["buffer"], state["buffer_pos"], *half]
    if state["bit_generator"] == "SFC64":
        return [*inner["state"], *half]
    parts = (inner["state"], inner["inc"])
    return [word for part in parts for word in (part >> 64, part % 2**64)] + half


def draws(generator: Any) -> list[int]:
    """What is drawn after the jump."""
    calls = generator.ctypes
    wide = [calls.next_uint64(calls.state) for _ in range(5)]
    narrow = [calls.next_uint32(calls.state) for _ in range(3)]
    wide_again = [calls.next_uint64(calls.state) for _ in range(2)]
    bits = struct.unpack("<Q", struct.pack("<d", calls.next_double(calls.state)))
    return [*wide, *narrow, *wide_again, *bits]


def main() -> None:
    """Print all cases."""
    print(f"# NumPy {np.__version__}, written by tools/random_vectors.py")
    for entropy, key in SEEDS:
        seeds = np.random.SeedSequence(entropy, spawn_key=key)
        print("; ".join(["SeedSequence", words(entropy), words(key), words(seeds.generate_state(8))]))
    for kind in GENERATORS:
        jumps = {"SFC64": [(0, 0)], "MT19937": FEW_JUMPS}.get(kind.__name__, JUMPS)
        for entropy, key in SEEDS:
            for n_before, n_jumps in jumps:
                generator: Any = kind(np.random.SeedSequence(entropy, spawn_key=key))
                for _ in range(n_before):
                    generator.ctypes.next_uint32(generator.ctypes.state)
                if n_jumps:
                    generator = generator.jumped(n_jumps)
                case = [words([n_before]), words([n_jumps]), words(state_of(generator)), words(draws(generator))]
                print("; ".join([kind.__name__, words(entropy), words(key), *case]))


if __name__ == "__main__":
    main()
