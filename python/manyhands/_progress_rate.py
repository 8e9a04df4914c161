"""How fast the tasks of a call end, and how long the rest will take."""

from __future__ import annotations


class Rate:
    """How many tasks end in a second, the recent past counting more; and how long the rest will take.

    What has ended and how long that took fade away alike, so that their ratio is right from the first moment on. The
    longer it has taken so far, the slower they fade. Time counts when tasks end: between the ends of long tasks the
    estimate stands, and the remaining time runs down.
    """

    FADE_S = 10.0

    def __init__(self) -> None:
        self._n_done = 0
        self._changed_s = 0.0
        self._n = 0.0
        self._time_s = 0.0

    def update(self, elapsed_s: float, n_done: int) -> None:
        """Take note of how many have ended by now."""
        n_more = n_done - self._n_done
        if n_more <= 0:
            return
        passed_s = elapsed_s - self._changed_s
        kept = self._kept(passed_s, elapsed_s)
        self._n = self._n * kept + n_more
        self._time_s = self._time_s * kept + passed_s
        self._n_done, self._changed_s = n_done, elapsed_s

    def _kept(self, passed_s: float, elapsed_s: float) -> float:
        return float(2.0 ** -(passed_s / max(self.FADE_S, 0.3 * elapsed_s)))

    def rate(self, elapsed_s: float) -> float | None:
        """Tasks per second; less than it was once the next end is overdue."""
        if self._n <= 0.0 or self._time_s <= 0.0:
            return None
        overdue_s = elapsed_s - self._changed_s - self._time_s / self._n
        if overdue_s <= 0.0:
            return self._n / self._time_s
        kept = self._kept(overdue_s, elapsed_s)
        return self._n * kept / (self._time_s * kept + overdue_s)

    def remaining(self, elapsed_s: float, n_left: int) -> float | None:
        """How many seconds it will take until so many more have ended."""
        rate = self.rate(elapsed_s)
        if rate is None:
            return None
        # Some of that has passed already, of the task that is next at most.
        waited_s = min(elapsed_s - self._changed_s, 1.0 / rate)
        return max(n_left / rate - waited_s, 0.0)
