"""Something done as soon as a module has been imported."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def find_spec_behind(finder: Any, name: str, path: Any, target: Any) -> Any:
    """What the finders behind this one find; those before it have found nothing."""
    finders = list(sys.meta_path)
    # Somebody may have taken it out meanwhile.
    begin = finders.index(finder) + 1 if finder in finders else 0
    for other in finders[begin:]:
        find_spec = getattr(other, "find_spec", None)
        spec = None if find_spec is None else find_spec(name, path, target)
        if spec is not None:
            return spec
    return None


class LateLoader:
    """The loader of a module, until that has been executed; then `call` is called with the module."""

    def __init__(self, loader: Any, call: Callable[[Any], object]) -> None:
        self._loader = loader
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._call(module)
