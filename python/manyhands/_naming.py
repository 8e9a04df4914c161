"""Names functions and arguments by their content, so that a later run knows them again; used for checkpoints.

`_tokenize` gives what it cannot take apart a token of its own, which costs a computation at most. Here that would
cost a night's work without a word, so it is an error. And a function is more than its name: what it is made of is
looked at in turn, as far as it is the user's own; what is installed is known by its name.
"""

from __future__ import annotations

import sys
from functools import lru_cache, partial
from hashlib import blake2b
from importlib.machinery import EXTENSION_SUFFIXES
from types import CellType, CodeType, FunctionType, MethodType, ModuleType

from manyhands import _culprit, _imports, _pickling, _tokenize
from manyhands._tokenize import _DIGEST_BYTES, _NOT_CONTENT, _SCALARS, _Encoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeGuard


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
        if module is None:
            return False  # and it may be imported any time
        known = (
            root != "__main__"
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


def is_own_module(value: object) -> TypeGuard[ModuleType]:
    """Whether something is a module that is neither a part of Python nor of an installed package."""
    return isinstance(value, ModuleType) and not is_installed(value.__name__)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


# Where a module comes from: it is none other elsewhere.
_PLACES = frozenset(["__cached__", "__file__", "__name__", "__package__", "__path__"])

_COMPILED = tuple(EXTENSION_SUFFIXES)


class _NotImported:
    """Imports that were named while their modules were not imported: by the sources.

    Once the function has run here, they are. They are named as before then, or a program that is run again, and finds
    the first call's results, would not find those of its second. That holds as long as nothing has changed in them
    since the end of the call that imported them.
    """

    N_MAX = 1024

    def __init__(self) -> None:
        self._noted: dict[tuple[str, frozenset[str]], tuple[bytes, dict[str, bytes]]] = {}
        self._settled: dict[tuple[str, frozenset[str]], tuple[bytes, bytes]] = {}

    def note(self, name: str, names: frozenset[str], data: bytes, contents: dict[str, bytes]) -> bytes:
        """Notes what the import of a module is named by."""
        for notes in (self._noted, self._settled):
            if len(notes) >= self.N_MAX:
                notes.clear()
        self._settled.pop((name, names), None)
        self._noted[name, names] = (data, contents)
        return data

    def same(self, name: str, names: frozenset[str], data: bytes) -> bytes:
        """What the import of a module, which is imported and named by this now, was named by before it was."""
        now, before = self._settled.get((name, names), (None, b""))
        return before if now == data else data

    def settle(self) -> None:
        """Looks at what has been imported meanwhile: a call has ended, and nobody has touched it yet."""
        for key in list(self._noted):
            name, names = key
            if name not in sys.modules:
                continue
            data, contents = self._noted.pop(key)
            specs = {one: _imports.find(one) for one in contents}
            namer = Namer()
            try:
                if all(
                    spec is not None and digest(namer.one(_imports.content(spec))) == contents[one]
                    for one, spec in specs.items()
                ):
                    self._settled[key] = (namer.imported(name, names), data)
            except (Unnamed, RecursionError):  # it is named anew then
                continue


_not_imported = _NotImported()


def settle() -> None:
    """To be called when a call that has named functions ends."""
    _not_imported.settle()


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
            return self._module(obj)
        data = super()._compound(obj)
        if data.startswith((b"global", b"builtin")):
            # Known by its name alone, which says enough of what is installed.
            data += self._compiled(sys.modules.get(str(getattr(obj, "__module__", None))))
        return data

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
            label = "the variable {!r} that it encloses"
            value = _content(cell)
            if is_own_module(value):
                parts += [(label.format(path), part) for path, part in self.used_of_module(name, value, _names(code))]
            else:
                parts.append((label.format(name), cell))
        for name, value in _culprit.globals_used(function).items():
            if is_own_module(value):
                used = self.used_of_module(name, value, _names(code))
                parts += [(f"the global {path!r}", part) for path, part in used]
            else:
                parts.append((f"the global {name!r}", self.leniently(name, value)))
        for name in _imports.own_modules(code, _imports.package_of(function.__globals__)):
            parts.append((f"its import of {name!r}", self.imported(name, _names(code))))
        return parts

    def used_of_module(self, path: str, module: ModuleType, names: frozenset[str]) -> list[tuple[str, bytes]]:
        """What code that mentions these names may use of a module of the user's, and of those that it holds."""
        parts: list[tuple[str, bytes]] = []
        seen = {id(module)}
        waiting = [(path, module)]
        for path, module in waiting:
            namespace = vars(module)
            # Attributes of other objects may have these names too: that costs no more than a look.
            used = names & namespace.keys()
            if "__getattr__" in namespace:
                # It makes what is missing, which may be modules that are imported when they are asked for.
                parts.append((f"{path}.__getattr__", self.leniently(f"{path}.__getattr__", namespace["__getattr__"])))
                for name in sorted(names - used):
                    inner = f"{module.__name__}.{name}"
                    if inner in sys.modules or _imports.find(inner) is not None:
                        parts.append((f"{path}.{name}", self.imported(inner, names)))
            compiled = self._compiled(module)
            if compiled:
                parts.append((path, compiled))
            for name in sorted(used):
                value = namespace[name]
                if not is_own_module(value):
                    parts.append((f"{path}.{name}", self.leniently(f"{path}.{name}", value)))
                elif id(value) not in seen:
                    seen.add(id(value))
                    waiting.append((f"{path}.{name}", value))
        return parts

    def imported(self, name: str, names: frozenset[str]) -> bytes:
        """What code that mentions these names may use of a module of the user's that it imports as it runs."""
        module = sys.modules.get(name)
        if module is None:
            return _not_imported.note(name, names, *self._sources(name))
        data = b"imported" + self.mapping(self.used_of_module(name, module, names))
        return _not_imported.same(name, names, data)

    def _sources(self, name: str) -> tuple[bytes, dict[str, bytes]]:
        """What a module that is not imported would bring with it; and the content of each that is not imported."""
        contents: dict[str, bytes] = {}
        imported: dict[str, bytes] = {}
        waiting = [name]
        for name in waiting:
            spec = _imports.find(name)
            if name in contents or spec is None:
                continue
            content = _imports.content(spec)
            if content is None:
                self.vague.setdefault(name, _culprit.type_name(spec.loader))
            contents[name] = digest(self.one(content))
            if isinstance(content, CodeType):
                is_package = spec.submodule_search_locations is not None
                for other in _imports.own_modules(content, name if is_package else name.rpartition(".")[0]):
                    module = sys.modules.get(other)
                    if module is None:
                        waiting.append(other)
                    else:
                        used = self.used_of_module(other, module, _names(content))
                        imported[f"{other} for {name}"] = self.mapping(used)
        return b"source" + self.mapping(contents.items()) + self.mapping(imported.items()), contents

    def _module(self, module: ModuleType) -> bytes:
        """A module by itself: all that is in it may be used."""
        head = b"module" + self.one(module.__name__)
        if is_installed(module.__name__):
            return head
        content = [
            (name, self.leniently(f"{module.__name__}.{name}", value))
            for name, value in list(vars(module).items())
            if name not in _NOT_CONTENT and name not in _PLACES
        ]
        return head + self._compiled(module) + self.mapping(content)

    def _compiled(self, module: ModuleType | None) -> bytes:
        """The content of a module of the user's that is compiled: it has no code to look into."""
        file = getattr(module, "__file__", None)
        if module is None or not isinstance(file, str) or not file.endswith(_COMPILED) or is_installed(module.__name__):
            return b""
        return b"compiled" + digest(_imports.file_bytes(file) or b"")

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
