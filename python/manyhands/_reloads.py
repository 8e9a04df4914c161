"""Notices modules of the user's that were loaded anew, as by `importlib.reload` or a notebook's autoreload.

Functions of such modules travel to workers by name. A worker that has imported the module before would go on with the
old code, so it must not be used any more.
"""

from __future__ import annotations

import sys

# By name: the spec each module had when it was first seen. Loading a module anew gives it a new spec.
_specs: dict[str, object] = {}
_seen: tuple[int, str | None] = (0, None)
# Whatever lies there was installed, and is not being edited.
_INSTALLED = ("site-packages", "dist-packages")


def any_since_last_call() -> bool:
    """Whether a module of the user's was loaded anew since this was last asked."""
    _look_for_new()
    changed = [name for name, spec in _specs.items() if _is_other(name, spec)]
    for name in changed:
        _specs[name] = getattr(sys.modules[name], "__spec__", None)
    return bool(changed)


def _is_other(name: str, spec: object) -> bool:
    module = sys.modules.get(name)
    return module is not None and getattr(module, "__spec__", None) is not spec


def _look_for_new() -> None:
    """Take note of modules that have come since the last call."""
    global _seen
    modules = sys.modules
    try:
        seen = (len(modules), next(reversed(modules)))
    except (RuntimeError, StopIteration):  # another thread is importing: the next call looks again
        return
    if seen == _seen:
        return
    for name, module in list(modules.items()):
        spec = getattr(module, "__spec__", None)
        if name not in _specs and spec is not None and _is_the_users(spec):
            _specs[name] = spec
    _seen = seen


def _is_the_users(spec: object) -> bool:
    """Whether a module is source code that is not part of Python and was not installed."""
    import os

    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str) or not origin.endswith(".py"):
        return False
    library = os.path.dirname(os.__file__) + os.sep
    return not origin.startswith(library) and not any(part in origin for part in _INSTALLED)
