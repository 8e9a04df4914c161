"""Signals that come at a bad moment, for after it."""

from __future__ import annotations

import threading
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class HeldSignals:
    """Has the handlers of signals called later, where what they raise would be lost, or would leave things half done.

    Handlers run in the main thread, whichever thread the system gives a signal to; so blocking signals is not enough,
    and in other threads there is nothing to hold.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._came: list[int] = []

    def begin(self, numbers: Iterable[int]) -> None:
        """From here on take note only. Raises what handlers raise that are due."""
        import _signal

        if get_ident() != threading.main_thread().ident:
            return
        for number in numbers:
            handler = _signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                # Calls the handlers that are due before it does anything.
                _signal.signal(number, self._note)

    def _note(self, number: int, _frame: Any) -> None:
        self._came.append(number)

    def end(self) -> None:
        """Put the handlers back, and have those called that would have been; what they raise is raised here."""
        if not self._handlers:
            return
        import _signal

        raised: BaseException | None = None
        for number, handler in self._handlers.items():
            while _signal.getsignal(number) == self._note:
                try:
                    _signal.signal(number, handler)
                except BaseException as error:  # of a handler that is back already and was due
                    raised = raised or error
        for number in self._came:
            try:
                _signal.raise_signal(number)
            except BaseException as error:
                raised = raised or error
        if raised is not None:
            raise raised
