"""Amounts of memory as people write them; imported with the first one that is text."""

from __future__ import annotations

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
}


def amount_of(text: str) -> object:
    """The number of bytes, or the share, that a text stands for; the text itself if it stands for none."""
    words = text.strip().lower()
    if words == "unlimited":
        return float("inf")
    number = words.rstrip("%abcdefghijklmnopqrstuvwxyz ")
    unit = words[len(number) :].strip()
    try:
        if unit == "%":
            return float(number) / 100
        if not unit and "." in number:
            return float(number)
        n_bytes = float(number) * _UNITS[unit]
        # Large integers are exact, not rounded to what a float can hold.
        return int(number) * _UNITS[unit] if number.isdigit() else int(n_bytes)
    except (KeyError, OverflowError, ValueError):
        return text
