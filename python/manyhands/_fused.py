"""Programs: tasks that consist of several calls, made from those that Dask has fused.

In a module of its own, which imports nothing: workers get programs by pickle.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Program:
    """Calls that are made one after the other.

    A step is a function, the places of its arguments, the names of the last of them, and the places that nobody needs
    afterwards. What is given has the first places; each step's result has the next.
    """

    __slots__ = ("_last", "_steps")

    def __init__(
        self, steps: tuple[tuple[Callable[..., Any], tuple[int, ...], tuple[str, ...], tuple[int, ...]], ...], last: int
    ) -> None:
        self._steps = steps
        self._last = last

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self._steps, self._last)

    @property
    def __name__(self) -> str:
        """That of the last step, which is what the task was for whoever wrote it."""
        function = self._steps[-1][0] if self._steps else Program
        return str(getattr(function, "__name__", type(function).__name__))

    @property
    def _functions(self) -> list[Callable[..., Any]]:
        return [step[0] for step in self._steps]

    def __call__(self, *given: Any) -> Any:
        values = list(given)
        # Each lives no longer than somebody needs it, if it is not somebody else's.
        del given
        for function, places, names, unneeded in self._steps:
            arguments = [values[place] for place in places]
            for place in unneeded:
                values[place] = None
            if names:
                n_named = len(names)
                named = dict(zip(names, arguments[-n_named:]))
                del arguments[-n_named:]
                values.append(function(*arguments, **named))
            else:
                values.append(function(*arguments))
        return values[self._last]


def call_node(node: Callable[[dict[Any, Any]], Any], keys: tuple[Any, ...], *values: Any) -> Any:
    """Call one of Dask's nodes of which nothing else is known."""
    return node(dict(zip(keys, values)))


def list_of(*items: Any) -> list[Any]:
    """A list of the arguments."""
    return list(items)


def tuple_of(*items: Any) -> tuple[Any, ...]:
    """A tuple of the arguments."""
    return items


def set_of(*items: Any) -> set[Any]:
    """A set of the arguments."""
    return set(items)


def dict_of(*items: Any) -> dict[Any, Any]:
    """A dict of the arguments: a key, its value, the next key."""
    return dict(zip(items[::2], items[1::2]))
