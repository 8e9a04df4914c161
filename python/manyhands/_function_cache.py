"""Pickles of functions, kept for as long as they are sure to be what pickling anew would give.

A submitted call pickles its function each time, and pickling one by value takes longer than the call's whole journey.
Kept are only functions that are nothing but code: without a closure, with plain defaults, and with no globals but
modules and builtins. That none of this has changed is checked at every use, so an old function is never sent.
"""

from __future__ import annotations

import sys
from _weakref import ref
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_ABSENT = object()
_N_KEPT_MAX = 1000


class _Kept:
    """A function's pickle, and what it was when the pickle was made."""

    __slots__ = ("code", "data", "defaults", "function", "is_found", "kwdefaults", "names", "qualname")

    def __init__(self, function: FunctionType, data: bytes, names: dict[str, object]) -> None:
        self.function = ref(function)
        self.data = data
        self.code = function.__code__
        self.defaults = function.__defaults__
        self.kwdefaults = dict(function.__kwdefaults__ or ())
        self.names = names
        self.qualname = (function.__module__, function.__qualname__)
        self.is_found = _is_found(function)

    def is_true_of(self, function: FunctionType) -> bool:
        if (
            self.function() is not function
            or function.__code__ is not self.code
            or function.__defaults__ is not self.defaults
            or (function.__kwdefaults__ or {}) != self.kwdefaults
            or function.__dict__
            or (function.__module__, function.__qualname__) != self.qualname
            or _is_found(function) is not self.is_found
        ):
            return False
        globals_ = function.__globals__
        return all(globals_.get(name, _ABSENT) is value for name, value in self.names.items())


# By the function's identity, and by what it is wrapped in.
_kept: dict[tuple[int, object], _Kept] = {}


def recall(function: Callable[..., Any], wrapper: object = None) -> bytes | None:
    """The pickle of a function, if one is kept and still true; or that of a function wrapped in a way of ours."""
    kept = _kept.get((id(function), wrapper))
    if kept is None or not kept.is_true_of(function):  # type: ignore[arg-type]
        return None
    return kept.data


def keep(function: Callable[..., Any], data: bytes, is_local: Callable[[str], bool], wrapper: object = None) -> None:
    """Keep the pickle of a function, if it is one of those that can be; or that of a function wrapped in a way of ours.

    `is_local` tells of a module's name whether the module travels by value.
    """
    if type(function) is not FunctionType or function.__closure__ or function.__dict__:
        return
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if any(type(value) not in _PLAIN for value in defaults):
        return
    names = {}
    for name in _names(function.__code__):
        value = names[name] = function.__globals__.get(name, _ABSENT)
        is_module = type(value) is ModuleType and not is_local(value.__name__)
        if not (is_module or value is _ABSENT or type(value) is BuiltinFunctionType):
            return
    if len(_kept) >= _N_KEPT_MAX:
        _kept.clear()
    _kept[id(function), wrapper] = _Kept(function, data, names)


def _names(code: CodeType) -> Iterator[str]:
    """The names that code may look up among its globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_found(function: FunctionType) -> bool:
    """Whether the function's own name leads to it."""
    found: object = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function
