"""Calls that wait for each other, so that each has a worker of its own; imports nothing that workers do not have."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def attend(
    folder: str, number: int, n_all: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a function once as many others are about to, each in a worker of its own.

    A worker that dies comes again under the same number, and finds the others gone or waiting.

    Raises
    ------
    FileNotFoundError
        If whoever called them together has gone.
    """
    with open(os.path.join(folder, str(number)), "w"):
        pass
    while len(os.listdir(folder)) < n_all:
        time.sleep(0.002)
    return function(*args, **kwargs)
