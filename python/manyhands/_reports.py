"""In a worker: what tasks warn of and log becomes reports, which the engine brings to the parent.

Warnings meet the parent's filters here, so that what nobody wants to hear is not sent, and what is an error there is
one where it happens. Each task warns anew, whatever others have warned of before it: whether that is shown again is
for the parent to say. Log records are made where a logger of the parent's would make them.
"""

from __future__ import annotations

import os
import re
import sys
from _pickle import dumps

from manyhands import _native
from manyhands._relay import LOG, WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Levels = tuple[int, int, dict[str, int]]

_process = 0
_show_here: Any = None


def watch() -> None:
    """Have warnings and log records of this process reported from now on."""
    global _process, _show_here
    import warnings

    _process = os.getpid()
    functions: Any = vars(warnings)
    if functions["_showwarnmsg_impl"] is not _show:
        _show_here = functions["_showwarnmsg_impl"]
        functions["_showwarnmsg_impl"] = _show
    if "logging" in sys.modules:
        _watch_logging()
    elif not any(type(finder) is _Finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _send(kind: int, content: bytes) -> bool:
    """Send a report as the running task's, if there is one."""
    if os.getpid() != _process:
        return False
    if _native.reports_have_places():
        from manyhands._worker import flush_output

        flush_output()
    return _native.report(bytes((kind,)) + content)


# Warnings


def _show(message: Any) -> None:
    """In the place of what writes a warning to standard error."""
    if message.file is not None or not _send(WARNING, _packed(message)):
        _show_here(message)


def _packed(message: Any) -> bytes:
    from manyhands._failures import pack

    warning = message.message
    if not isinstance(warning, Warning):
        warning = message.category(warning)
    module = _module_of(message.filename, message.lineno)
    return dumps((pack(warning, None), message.filename, message.lineno, module), 5)


def _module_of(filename: str, lineno: int) -> str:
    """The name of the module whose line warns, which is on the stack as a rule."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == filename and frame.f_lineno == lineno:
            return str(frame.f_globals.get("__name__", "<unknown>"))
        frame = frame.f_back  # type: ignore[assignment]
    return filename.removesuffix(".py") or "<unknown>"


def forget_warnings() -> None:
    """Have each line warn anew; called by the engine after a task that has."""
    import warnings

    functions: Any = vars(warnings)
    mutated = functions.get("_filters_mutated") or functions.get("_filters_mutated_lock_held")
    if mutated is not None:
        mutated()
    functions["onceregistry"].clear()


def told_filters(filters: tuple[Any, ...]) -> list[Any]:
    """Filters, for their way to workers; called in the parent."""
    return [
        (action, _told(message), _place(cls), _told(module), line) for action, message, cls, module, line in filters
    ]


def _told(pattern: Any) -> Any:
    return (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else pattern


def _place(cls: Any) -> tuple[str, str]:
    return (cls.__module__, cls.__qualname__) if isinstance(cls, type) else ("", "")


def _read(pattern: Any) -> Any:
    return re.compile(*pattern) if isinstance(pattern, tuple) else pattern


def _category(place: tuple[str, str], action: str) -> Any:
    """A class of warnings, if its module is here already, or is needed to raise the right errors."""
    name, qualname = place
    found: Any = sys.modules.get(name)
    try:
        if found is None and action == "error":
            from importlib import import_module

            found = import_module(name)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # then it is the parent alone that applies the filter
        return None
    return found if isinstance(found, type) and issubclass(found, Warning) else None


def set_filters(told: list[Any]) -> None:
    """Take over the parent's filters."""
    import warnings

    filters = []
    for action, message, place, module, line in told:
        category = _category(place, action)
        if category is not None:
            filters.append((action, _read(message), category, _read(module), line))
    warnings.filters[:] = filters  # type: ignore[index]
    forget_warnings()


# Log records


_handler: Any = None
_levels: Levels | None = None
# The loggers that have a level of the parent's.
_with_levels: set[str] = set()


def set_levels(levels: Levels | None) -> None:
    """Take over the levels of the parent's loggers; None where it has none."""
    global _levels
    _levels = levels
    if _handler is not None:
        _apply_levels()


def _apply_levels() -> None:
    import logging

    if _levels is None:
        return
    root, disable, by_name = _levels
    logging.disable(disable)
    logging.root.setLevel(root)
    for name in _with_levels - by_name.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in by_name.items():
        logging.getLogger(name).setLevel(level)
    _with_levels.clear()
    _with_levels.update(by_name)


def _watch_logging() -> None:
    """Have log records reported."""
    global _handler
    import logging

    class Handler(logging.Handler):
        """Sends records to the parent."""

        def emit(self, record: logging.LogRecord) -> None:
            try:
                is_sent = _send(LOG, _told_record(record))
            except Exception:
                self.handleError(record)
                return
            last: Any = logging.lastResort
            if not is_sent and last is not None and record.levelno >= last.level:
                last.handle(record)

    if _handler is None:
        _handler = Handler()
    if _handler not in logging.root.handlers:
        logging.root.addHandler(_handler)
    _apply_levels()


def _told_record(record: Any) -> bytes:
    """What a record holds, as far as it can be sent."""
    import logging

    fields = dict(vars(record))
    fields["msg"] = record.getMessage()
    fields["args"] = None
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    fields["exc_info"] = None
    try:
        return dumps(fields, 5)
    except Exception:
        return dumps({name: _told_field(field) for name, field in fields.items()}, 5)


def _told_field(field: Any) -> Any:
    """A field as it is, if it can be sent; otherwise what it looks like."""
    try:
        dumps(field, 5)
    except Exception:
        return repr(field)
    return field


class _Finder:
    """Waits for the first import of `logging`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "logging":
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        from importlib.util import find_spec

        from manyhands._late import LateLoader

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = LateLoader(spec.loader, lambda _: _watch_logging())  # type: ignore[assignment]
        return spec


# In the parent


# In the cache of the root logger, which `logging` empties with those of all loggers when a level changes.
_UNCHANGED: Any = "manyhands: levels are known"
_known_levels: Levels | None = None


def levels() -> Levels | None:
    """The levels of this process's loggers; the same object as long as none has changed."""
    global _known_levels
    logging: Any = sys.modules.get("logging")
    root = getattr(logging, "root", None)
    if root is None or not hasattr(logging, "makeLogRecord"):
        return None
    if _known_levels is None or _UNCHANGED not in root._cache:
        by_name = {}
        for name, logger in list(root.manager.loggerDict.items()):
            level = getattr(logger, "level", 0)
            if level:
                by_name[name] = level
        found = (root.level, root.manager.disable, by_name)
        if found != _known_levels:
            _known_levels = found
        root._cache[_UNCHANGED] = True
    return _known_levels


def begin_forked() -> None:
    """In a forked worker: have the parent's loggers there, rather than here, handle what is logged."""
    watch()
    logging: Any = sys.modules.get("logging")
    if logging is None:
        return
    loggers: list[Any] = [logging.root, *list(logging.root.manager.loggerDict.values())]
    for logger in loggers:
        if hasattr(logger, "handlers"):
            logger.handlers = [] if logger is not logging.root else [_handler]
            logger.propagate = True
