"""What code imports when it runs: which modules of the user's own these are, and what is in those not imported yet.

Nothing is executed here. A module that is not imported yet is known by the code that its import would run.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from types import CodeType

from manyhands import _pickling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec
    from typing import Any


@lru_cache(maxsize=1024)
def statements(code: CodeType) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """The imports of a code object and of those nested in it: the level, the module, what is taken from it."""
    import dis

    found: dict[tuple[int, str, tuple[str, ...]], None] = {}
    # Most code imports nothing, and need not be taken apart to see that.
    if dis.opmap["IMPORT_NAME"] in code.co_code[::2]:
        level: Any = None
        taken: Any = None
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                found[level or 0, instruction.argval, taken or ()] = None
            if instruction.opname != "EXTENDED_ARG":
                # The two values that were loaded last are what the instruction takes.
                level, taken = taken, instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.update(dict.fromkeys(statements(constant)))
    return tuple(found)


def package_of(namespace: dict[str, Any]) -> str:
    """The package that relative imports start from, in code with these globals."""
    package = namespace.get("__package__")
    if not isinstance(package, str):
        package = getattr(namespace.get("__spec__"), "parent", None)
    if isinstance(package, str):
        return package
    name = str(namespace.get("__name__") or "")
    return name if "__path__" in namespace else name.rpartition(".")[0]


def own_modules(code: CodeType, package: str) -> list[str]:
    """The modules of the user's own that a code object imports when it runs, with their packages."""
    found: dict[str, None] = {}
    for level, name, taken in statements(code):
        if level:
            parents = package.split(".")
            if not package or level > len(parents):
                continue  # it raises when it runs
            base = ".".join(parents[: len(parents) - level + 1])
            name = f"{base}.{name}" if name else base
        if not is_own(name):
            continue
        found.update(dict.fromkeys(_with_packages(name)))
        module = sys.modules.get(name)
        for one in taken:
            # What a module has already is an attribute of it, and looked at as such.
            if module is None or one not in vars(module):
                inner = f"{name}.{one}"
                if inner in sys.modules or find(inner) is not None:
                    found[inner] = None
    return [name for name in found if name in sys.modules or find(name) is not None]


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    for n_parts in range(1, len(parts) + 1):
        yield ".".join(parts[:n_parts])


def is_own(name: str) -> bool:
    """Whether a module, imported or not, is neither a part of Python nor of an installed package."""
    from manyhands._naming import is_installed

    root = name.partition(".")[0]
    if root in sys.modules:
        return not is_installed(root)
    if root in sys.stdlib_module_names:
        return False
    spec = find(root)
    return spec is not None and not _pickling._is_installed_spec(spec, _pickling._installed_places())


def find(name: str) -> ModuleSpec | None:
    """Where a module would be imported from. Unlike `importlib.util.find_spec` this imports no package on the way."""
    parent = name.rpartition(".")[0]
    places: list[str] | None = None
    if parent:
        module = sys.modules.get(parent)
        package = find(parent) if module is None else module.__spec__
        places = list(getattr(module, "__path__", None) or _places(package) or ())
        if not places:
            return None
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        found: ModuleSpec | None = None if find_spec is None else find_spec(name, places)
        if found is not None:
            return found
    return None


def _places(package: ModuleSpec | None) -> list[str] | None:
    locations: Any = getattr(package, "submodule_search_locations", None)
    try:
        return None if locations is None else list(locations)
    except KeyError:  # a package without a file, in one that is not imported: it asks the latter for its places
        return list(locations._path)


def content(spec: ModuleSpec) -> CodeType | bytes | None:
    """What the import of a module would run: code, or the bytes of what is compiled; None where nothing tells."""
    get_code = getattr(spec.loader, "get_code", None)
    try:
        code = None if get_code is None else get_code(spec.name)
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError):  # its import will raise, or it has no such code
        code = None
    if isinstance(code, CodeType):
        return code
    if spec.loader is None:
        return b""  # a package without a file
    return file_bytes(spec.origin)


def file_bytes(path: object) -> bytes | None:
    """What is in a file; None where there is none."""
    try:
        with open(str(path), "rb") as file:
            return file.read()
    except OSError:
        return None
