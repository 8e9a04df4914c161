"""The keys of calls that `manyhands.distributed` is asked for."""

from __future__ import annotations

from manyhands._promises import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["key_of", "keys_of"]


def key_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The key of a call that is equal to all others with the same function and arguments."""
    from manyhands._tokenize import tokenize

    named = [(name, _token_of(value)) for name, value in sorted(kwargs.items())]
    token = tokenize(function, [_token_of(arg) for arg in args], named)
    return f"{getattr(function, '__name__', type(function).__name__)}-{token}"


def _token_of(argument: Any) -> Any:
    """What stands for an argument in a key: a future is its own key."""
    if isinstance(argument, Future):
        return ("future", argument.key)
    if isinstance(argument, (list, tuple)):
        return [type(argument).__name__, *map(_token_of, argument)]
    return argument


def keys_of(
    key: str | list[str] | None,
    function: Callable[..., Any],
    items: list[tuple[Any, ...]],
    kwargs: dict[str, Any],
    pure: bool,
) -> list[str] | None:
    """The keys for the calls of a map, where they matter."""
    if isinstance(key, str):
        return [f"{key}-{number}" for number in range(len(items))]
    if key is not None:
        keys = list(key)
        if len(keys) < len(items):
            raise ValueError(f"{len(keys)} keys for {len(items)} calls: there has to be one for each")
        return keys
    return [key_of(function, item, kwargs) for item in items] if pure else None
