"""Dask's own setting of the scheduler, while clients live that are the default.

Dask's `config.set` puts back what was there when it was called, whatever has become of it since. Clients end in any
order, so each is a layer here, and takes only its own away.
"""

from __future__ import annotations

from threading import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KEY = "scheduler"
#: What was found where nothing was set.
_NOTHING: Any = object()

# A client may end at any moment, also in a thread that holds this.
_lock = RLock()
# Of each layer, the lowest first, what was there before it.
_layers: list[Layer] = []


class Layer:
    """Has Dask's collections computed by `manyhands.dask.get`, from now until `end`."""

    def __init__(self) -> None:
        import dask

        import manyhands.dask

        self._get = manyhands.dask.get
        self._settings: dict[str, Any] = dask.config.config
        with _lock:
            _layers.append(self)
            self._before = self._settings.get(_KEY, _NOTHING)
            # Not by Dask's own function, whose lock the thread may hold in which a client ends.
            self._settings[_KEY] = self._get

    def end(self) -> None:
        """Put back what was there, unless somebody has set something else since."""
        with _lock:
            at = _layers.index(self)
            del _layers[at]
            if at < len(_layers):
                above = _layers[at]
                if above._before is self._get:
                    above._before = self._before
            elif self._settings.get(_KEY) is not self._get:
                return
            elif self._before is _NOTHING:
                self._settings.pop(_KEY, None)
            else:
                self._settings[_KEY] = self._before
