"""Names functions and arguments by their content, so that a later run knows them again; used for checkpoints.

`_tokenize` gives what it cannot take apart a token of its own, which costs a computation at most. Here that would
cost a night's work without a word, so it is an error. And a function is more than its name: what it is made of is
looked at in turn, as far as it is the user's own; what is installed is known by its name.
"""

from __future__ import annotations

import sys
from functools import lru_cache, partial
from hashlib import blake2b
from types import CodeType, FunctionType, MethodType, ModuleType

from manyhands import _culprit, _pickling, _tokenize
from manyhands._tokenize import _DIGEST_BYTES, _NOT_CONTENT, _SCALARS, _Encoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


class Unnamed(Exception):
    """An object that nothing tells from others like it."""

    def __init__(self, obj: object, reason: str) -> None:
        super().__init__(obj, reason)
        self.obj = obj
        self.reason = reason


def digest(data: bytes) -> bytes:
    """A digest of bytes."""
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()


_installed: dict[str, bool] = {}


def is_installed(module_name: object) -> bool:
    """Whether a module is a part of Python or of an installed package: what is in it is known by its name."""
    if not isinstance(module_name, str):
        return False
    root = module_name.partition(".")[0]
    known = _installed.get(root)
    if known is None:
        module = sys.modules.get(root)
        known = (
            root != "__main__"
            and module is not None
            and (root in sys.builtin_module_names or not _pickling._is_made_here(module))
            and _pickling._is_installed(root, _pickling._installed_places())
        )
        _installed[root] = known
    return known


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> frozenset[str]:
    """All names that a code object and those nested in it mention, attributes too."""
    nested = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(code.co_names).union(*nested)


class Namer(_Encoder):
    """Encodes objects such that equal bytes mean equal content, in every process and every run."""

    def __init__(self) -> None:
        super().__init__()
        # What has been left out of functions and classes, as nothing tells it from others like it.
        self.vague: dict[str, str] = {}

    def unknown(self, obj: object) -> bytes:
        raise Unnamed(obj, "it has no content")

    def by_cloudpickle(self, obj: object) -> bytes:
        raise Unnamed(obj, "pickle cannot take it apart")

    def _compound(self, obj: Any) -> bytes:
        if type(obj) is FunctionType:
            return self._function(obj)
        if isinstance(obj, type):
            return self._class(obj)
        if isinstance(obj, ModuleType):
            return b"module" + self.one(obj.__name__)
        return super()._compound(obj)

    def _function(self, function: FunctionType) -> bytes:
        if is_installed(function.__module__) and _tokenize._is_importable(
            function.__module__, function.__qualname__, function
        ):
            return b"installed" + self.all([function.__module__, function.__qualname__])
        return b"function" + self.mapping(self.function_parts(function))

    def function_parts(self, function: FunctionType) -> list[tuple[str, object]]:
        """What a function is made of, each part with a name; its encoding stands for a part."""
        code = function.__code__
        parts: list[tuple[str, object]] = [("its code", code)]
        if function.__defaults__ or function.__kwdefaults__:
            parts.append(("its defaults", (function.__defaults__, function.__kwdefaults__)))
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            parts.append((f"the variable {name!r} that it encloses", cell))
        for name, value in _culprit.globals_used(function).items():
            label = f"the global {name!r}"
            if isinstance(value, ModuleType) and not is_installed(value.__name__):
                # Attributes of other objects may have these names too: that costs no more than a look.
                for attribute in sorted(_names(code) & vars(value).keys()):
                    part = f"{name}.{attribute}"
                    parts.append((f"the global '{part}'", self.leniently(part, vars(value)[attribute])))
            else:
                parts.append((label, self.leniently(name, value)))
        return parts

    def leniently(self, name: str, value: object) -> bytes:
        """The encoding of a part of a function or class; of its type alone, where there is no other."""
        n_in_cycle, reach = len(self._in_cycle), self._reach
        try:
            return self.one(value)
        except Unnamed as error:
            while len(self._in_cycle) > n_in_cycle:
                self._in_cycle.popitem()
            self._reach = reach
            self.vague.setdefault(name, _culprit.type_name(error.obj))
            return b"some" + self.one(_culprit.type_name(value))

    def _class(self, cls: type) -> bytes:
        head = b"class" + self.all([cls.__module__, cls.__qualname__])
        if is_installed(cls.__module__) and _tokenize._is_importable(cls.__module__, cls.__qualname__, cls):
            return head
        content = [
            (name, self.leniently(f"{cls.__qualname__}.{name}", value))
            for name, value in list(vars(cls).items())
            if name not in _NOT_CONTENT
        ]
        return head + self.all([type(cls), cls.__bases__]) + self.mapping(content)


class FunctionName:
    """What a function is known by: a digest of all its parts, each of which has one too."""

    def __init__(self, function: Callable[..., Any]) -> None:
        namer = Namer()
        self.function = function
        self.text = getattr(function, "__qualname__", None) or _pickling.name_of(function)
        self.parts = [(label, digest(namer.one(part))) for label, part in _parts(namer, function)]
        self.digest = digest(b"".join(digest(label.encode()) + part for label, part in self.parts))
        self.vague = namer.vague


def _parts(namer: Namer, function: Any) -> list[tuple[str, object]]:
    parts: list[tuple[str, object]] = []
    while isinstance(function, (partial, MethodType)):
        if isinstance(function, partial):
            parts.append(("the arguments of the partial", (function.args, function.keywords)))
            function = function.func
        else:
            parts.append(("the object whose method it is", function.__self__))
            function = function.__func__
    if type(function) is not FunctionType or is_installed(function.__module__):
        return [*parts, ("what is called", function)]
    # Code means the same in one version of Python only.
    version = ("the version of Python", sys.version_info[:2])
    return [*parts, version, *namer.function_parts(function)]


def name_arguments(args: Iterable[object]) -> bytes:
    """A digest of the arguments of a call."""
    namer: Namer | None = None
    encoded = []
    for arg in args:
        scalar = _SCALARS.get(type(arg))
        if scalar is None:
            namer = namer or Namer()
            encoded.append(namer.one(arg))
        else:
            encoded.append(scalar(arg))
    return digest(b"(%d:%b" % (len(encoded), b"".join(encoded)))
