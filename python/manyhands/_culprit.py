"""Finds the part of an object that keeps it from being pickled, and names the way to it.

The search walks the parts that pickle itself would store (what ``__reduce_ex__`` gives, the closure and the globals of
a function stored by value) and pickles them one by one into nothing. It is bounded in depth, in attempts and in time,
and it never raises: it is called while an error is being reported.
"""

from __future__ import annotations

import pickle
import sys
import time
from functools import lru_cache, partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["find", "globals_used", "type_name"]

DEPTH_MAX = 40
ATTEMPTS_MAX = 5000
SEARCH_TIME_MAX_S = 5.0
TEXT_CHARS_MAX = 300


def find(obj: object, cause: BaseException) -> tuple[str, str]:
    """Where inside `obj` the part that cannot be pickled is, and why it cannot.

    Returns
    -------
    tuple of str
        The path, such as ``".cache['lock']"`` or ``"global 'LOCK'"``, empty for `obj` itself; and the reason.
    """
    search = _Search()
    try:
        deepest = search.descend(obj, "", 0)
    except Exception:  # an object whose parts fight back: what the pickler said about the whole has to do
        deepest = None
    path, found = deepest if deepest is not None else ("", None)
    error = found or cause
    if (search.depth_reached >= DEPTH_MAX or search.is_spent()) and _is_recursion(error):
        return "", "it is nested too deeply"
    return path.removeprefix(" -> "), _reason(error)


def type_name(obj: object) -> str:
    """The module and qualified name of an object's type, without the module for built-in types."""
    cls = type(obj)
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


@lru_cache(maxsize=1024)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """The global names that a code object and those nested in it mention."""
    import dis

    names = dict.fromkeys(
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL")
    )
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(_global_names(constant)))
    return tuple(names)


def globals_used(function: FunctionType) -> dict[str, object]:
    """The globals that a function's code mentions, with their present values; built-ins left out."""
    namespace = function.__globals__
    return {name: namespace[name] for name in _global_names(function.__code__) if name in namespace}


def _reason(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # the text is the user's code
        text = ""
    if len(text) > TEXT_CHARS_MAX:
        text = text[:TEXT_CHARS_MAX] + "…"
    if isinstance(error, (TypeError, pickle.PicklingError)) and "pickle" in text:
        return text
    return f"pickling it raised {type(error).__name__}{': ' if text else ''}{text}"


def _is_recursion(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or isinstance(error.__context__, RecursionError)


class _Nothing:
    """A file that forgets what is written to it, but for whether a worker could load it."""

    def __init__(self) -> None:
        self.is_portable = True

    def write(self, data: bytes) -> int:
        from manyhands._pickling import is_portable

        self.is_portable = self.is_portable and is_portable(bytes(data))
        return len(data)


def _keep_out_of_band(buffer: object) -> None:
    """A buffer callback that returns false: large arrays are skipped, not copied."""


class _Search:
    """One search: the limits it has left, and the objects on the way to where it is."""

    def __init__(self) -> None:
        self._attempts_left = ATTEMPTS_MAX
        self._deadline = time.monotonic() + SEARCH_TIME_MAX_S
        # Strong references, so that an id is not given to another object during the search.
        self._visited: dict[int, object] = {}
        self.depth_reached = 0

    def is_spent(self) -> bool:
        """Whether the search has used up its limits."""
        return self._attempts_left <= 0 or time.monotonic() > self._deadline

    def error_of(self, obj: object) -> Exception | None:
        """What pickling `obj` raises; None where it works, or where the search has used up its limits."""
        if self.is_spent():
            return None
        self._attempts_left -= 1
        sink = _Nothing()
        try:
            pickle.Pickler(sink, 5, buffer_callback=_keep_out_of_band).dump(obj)
        except Exception:  # not the last word: cloudpickle knows more types
            sink.is_portable = False
        if sink.is_portable:
            return None
        import cloudpickle

        try:
            cloudpickle.Pickler(_Nothing(), 5, buffer_callback=_keep_out_of_band).dump(obj)
        except Exception as error:
            # The traceback would keep the pickler's frames, and all they hold, alive.
            return error.with_traceback(None)
        return None

    def failing(self, parts: list[tuple[str, object]]) -> Iterator[tuple[int, Exception]]:
        """Index and error of each part that cannot be pickled, by halving: most parts are fine."""
        stack = [(0, len(parts))]
        while stack:
            start, end = stack.pop()
            if start == end:
                continue
            if end - start == 1:
                error = self.error_of(parts[start][1])
                if error is not None:
                    yield start, error
            elif self.error_of([value for _, value in parts[start:end]]) is not None:
                middle = (start + end) // 2
                stack.append((middle, end))
                stack.append((start, middle))

    def descend(self, obj: object, path: str, depth: int) -> tuple[str, Exception | None] | None:
        """Path and error of the deepest culprit under `obj`, which is known to fail.

        None where `obj` fails only by way of an object that the search is inside of already: then another branch
        leads to the culprit.
        """
        self._visited[id(obj)] = obj
        self.depth_reached = max(self.depth_reached, depth)
        if depth >= DEPTH_MAX:
            return path, None
        try:
            parts = _parts(obj)
        except Exception as own:  # its own __reduce__ or __getstate__ fails: this is the culprit
            return path, own.with_traceback(None)
        went_in_circles = False
        for index, error in self.failing(parts):
            label, value = parts[index]
            if id(value) in self._visited:
                went_in_circles = True
                continue
            found = self.descend(value, path + label, depth + 1)
            if found is not None:
                return found[0], found[1] or error
            went_in_circles = True
        return None if went_in_circles else (path, None)


# What pickle stores of an object


def _parts(obj: object) -> list[tuple[str, object]]:
    """The parts that pickle would store of an object, with labels that read as Python where they can."""
    cls = type(obj)
    if cls in (list, tuple):
        return [(f"[{index}]", value) for index, value in enumerate(obj)]  # type: ignore[arg-type, var-annotated]
    if cls in (set, frozenset):
        return [(" -> element", value) for value in obj]  # type: ignore[attr-defined]
    if cls is dict:
        return list(_dict_parts(obj))  # type: ignore[arg-type]
    if isinstance(obj, FunctionType):
        return list(_function_parts(obj))
    if isinstance(obj, MethodType):
        return [(".__self__", obj.__self__), (".__func__", obj.__func__)]
    if isinstance(obj, partial):
        keywords = [(f".keywords[{name!r}]", value) for name, value in obj.keywords.items()]
        arguments = [(f".args[{index}]", value) for index, value in enumerate(obj.args)]
        return [(".func", obj.func), *arguments, *keywords]
    if isinstance(obj, (type, ModuleType)):
        return list(_namespace_parts(obj))
    if isinstance(obj, (staticmethod, classmethod)):
        return [("", obj.__func__)]
    if isinstance(obj, property):
        return [("", function) for function in (obj.fget, obj.fset, obj.fdel) if function is not None]
    if isinstance(obj, BuiltinFunctionType):
        return [(".__self__", obj.__self__)]
    if (cls.__module__, cls.__qualname__) == ("numpy", "ndarray") and obj.ndim:  # type: ignore[attr-defined]
        return _parts(obj.tolist())  # type: ignore[attr-defined]
    return list(_reduced_parts(obj))


# Parts of every class and module that pickle makes anew and does not store.
_NOT_STORED = frozenset(
    ["__builtins__", "__dict__", "__weakref__", "__loader__", "__spec__", "_abc_impl", "__module__", "__name__"]
)


def _namespace_parts(namespace: type | ModuleType) -> Iterator[tuple[str, object]]:
    for base in getattr(namespace, "__bases__", ()):
        yield f" -> base class {base.__qualname__!r}", base
    for name, value in list(vars(namespace).items()):
        if name not in _NOT_STORED and not isinstance(value, (GetSetDescriptorType, MemberDescriptorType)):
            yield f".{name}", value


def _dict_parts(mapping: dict[object, object]) -> Iterator[tuple[str, object]]:
    for key, value in list(mapping.items()):
        if not isinstance(key, (str, int, float, type(None))):
            yield " -> key", key
        yield f"[{_short(key)}]", value


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception:  # the text is the user's code
        text = object.__repr__(key)
    return text if len(text) <= 60 else text[:59] + "…"


def _function_parts(function: FunctionType) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            yield f" -> closure variable {name!r}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    defaults = function.__defaults__ or ()
    for name, value in zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults):
        yield f" -> default of parameter {name!r}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f" -> default of parameter {name!r}", value
    for name, value in globals_used(function).items():
        yield f" -> global {name!r}", value
    for name, value in vars(function).items():
        yield f".{name}", value


def _reduced_parts(obj: Any) -> Iterator[tuple[str, object]]:
    """The parts named by an object's own reduction, as pickle itself would ask for it."""
    copyreg = sys.modules["copyreg"]
    reducer = copyreg.dispatch_table.get(type(obj))
    reduced = reducer(obj) if reducer is not None else obj.__reduce_ex__(5)
    if not isinstance(reduced, tuple) or len(reduced) < 2:
        return
    function, arguments, *rest = reduced
    yield " -> its constructor", function
    if isinstance(arguments, tuple):
        for index, value in enumerate(arguments):
            yield " -> its class" if value is type(obj) else f" -> constructor argument {index}", value
    state, items, pairs, *_ = [*rest, None, None, None]
    slots = None
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state, slots = state
    for attributes in (state, slots):
        if isinstance(attributes, dict):
            for name, value in attributes.items():
                yield (f".{name}" if isinstance(name, str) else f" -> state[{_short(name)}]"), value
        elif attributes is not None:
            yield " -> state", attributes
    for index, value in enumerate(items or ()):
        yield f"[{index}]", value
    yield from _dict_parts(dict(pairs or ()))
