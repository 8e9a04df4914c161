"""Where progress appears: lines of the terminal, cells of a notebook, tqdm, rich, files, and callables.

All of it happens under the lock of `manyhands._progress`. While a bar stands in a terminal, whatever this program
writes there is let through: the bar is cleared, the text written, the bar drawn again.
"""

from __future__ import annotations

import os
import sys
import time

from manyhands import _progress, _settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from manyhands._progress import Progress

__all__ = ["View", "forget", "is_drawing", "refresh", "view_of", "writing"]


class View:
    """Shows one call."""

    #: Whether it has a place of its own, so that it matters which thread begins it, and when.
    is_placed = False

    def open(self) -> None:
        """Called as the call begins, in its thread. Nothing is shown yet."""

    def close(self) -> None:
        """Called when it has ended."""

    def begin(self, progress: Progress) -> None:
        """Called once, before it is drawn."""

    def draw(self, progress: Progress) -> None:
        """Called about ten times a second, and before the end."""

    def end(self, progress: Progress) -> None:
        """Called once, if it has begun."""


def view_of(kind: Any, file: Any) -> View | None:
    """What shows a call; None where there is nobody to see it.

    Raises
    ------
    ConfigError
        If tqdm or rich is asked for and cannot be imported.
    """
    if _progress._is_tqdm(kind) and not isinstance(kind, type):
        return _TqdmView(None, kind, file)
    if _progress._is_rich(kind) and not isinstance(kind, type):
        return _RichView(kind, None)
    if isinstance(kind, type) and all(hasattr(kind, name) for name in ("update", "refresh", "close", "set_postfix")):
        return _TqdmView(kind, None, file)
    if callable(kind):
        return _CallableView(kind)
    stream = _bare(sys.stderr) if file is None else file
    if kind == "notebook" or (kind == "auto" and file is None and _is_notebook()):
        return _NotebookView()
    if kind in ("tqdm", "rich"):
        if file is None and not (_is_notebook() or _is_terminal(stream)):
            return None
        return _TqdmView(_tqdm(), None, file) if kind == "tqdm" else _RichView(None, file)
    if _is_terminal(stream):
        return _ScreenView(stream)
    return None if file is None else _FileView(file)


def _bare(stream: Any) -> Any:
    """The stream below one that keeps the output of threads apart."""
    relay = sys.modules.get("manyhands._relay")
    if relay is not None and type(stream) is relay._Proxy:
        return stream._original
    return stream


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _is_notebook() -> bool:
    find = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if find is None else find()
    return getattr(shell, "kernel", None) is not None


# In words


def duration(seconds: float) -> str:
    """A time as people say it.

    Examples
    --------
    >>> duration(7.25), duration(47.0), duration(81.0), duration(3 * 3600 + 62)
    ('7.2 s', '47 s', '1:21', '3:01:02')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours}:{minutes:02}:{rest:02}"


def speed(rate: float) -> str:
    """A rate as people say it.

    Examples
    --------
    >>> speed(0.05), speed(2.5), speed(25_000)
    ('20 s each', '2.5/s', '25,000/s')
    """
    if rate < 1:
        return f"{duration(1 / rate)} each"
    return f"{rate:.1f}/s" if rate < 100 else f"{rate:,.0f}/s"


def facts(progress: Progress) -> str:
    """What is known, but for the bar."""
    parts = []
    is_running = progress.status == "running"
    if progress.total is None:
        parts.append(f"{progress.done} done")
    else:
        parts.append(f"{progress.done}/{progress.total}")
    if is_running:
        rate = progress.rate
        if rate is not None:
            parts.append(speed(rate))
        if progress.remaining is not None:
            parts.append(f"{duration(progress.remaining)} left")
        else:
            parts.append(duration(progress.elapsed))
        if progress.running and (rate is None or rate < 1):
            # Of long tasks, little else is known.
            parts.append(f"{progress.running} running")
    else:
        parts[0] += f" in {duration(progress.elapsed)}"
        n_computed = progress.done - progress.stored
        if n_computed > 0 and progress.elapsed > 0:
            parts.append(speed(n_computed / progress.elapsed))
    return ", ".join(parts + list(troubles(progress)))


def troubles(progress: Progress) -> Iterator[str]:
    """What did not simply run."""
    if progress.stored:
        yield f"{progress.stored} from the checkpoint"
    if progress.failed:
        yield f"{progress.failed} failed"
    if progress.retried:
        yield f"{progress.retried} tried again"
    if progress.died:
        yield f"{progress.died} {'worker' if progress.died == 1 else 'workers'} died"
    if progress.status in ("interrupted", "closed"):
        yield progress.status
    elif progress.status == "failed" and not progress.failed:
        yield "failed"


def share(progress: Progress) -> float | None:
    """How much of it is done, from 0 to 1."""
    if progress.total is None:
        return None
    return min(progress.done / progress.total, 1.0) if progress.total else 1.0


_BLOCKS = " ▏▎▍▌▋▊▉█"
_N_CELLS_BAR_MAX = 40
_N_CELLS_BAR_MIN = 8


def line(progress: Progress, n_columns: int, is_unicode: bool) -> str:
    """All in one line of the terminal, which it never fills: that would begin the next one."""
    n_columns = max(n_columns - 1, 1)
    name, told, done = _printable(progress.name), facts(progress), share(progress)
    if done is None:
        return _cut(f"{name}: {told}", n_columns)
    percent = f"{int(100 * done):3}%"
    room = n_columns - _n_cells(name) - len(percent) - len(told) - 3
    if room < _N_CELLS_BAR_MIN:
        return _cut(f"{name} {percent} {told}", n_columns)
    return f"{name} {percent} {bar(done, min(room, _N_CELLS_BAR_MAX), is_unicode)} {told}"


def bar(done: float, n_cells: int, is_unicode: bool) -> str:
    """A bar of so many cells.

    Examples
    --------
    >>> bar(0.5, 8, False)
    '####----'
    """
    if not is_unicode:
        n_full = int(done * n_cells)
        return "#" * n_full + "-" * (n_cells - n_full)
    n_full, n_eighths = divmod(int(done * n_cells * 8), 8)
    full = _BLOCKS[-1] * n_full + (_BLOCKS[n_eighths] if n_full < n_cells else "")
    return full.ljust(n_cells)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _n_cells(text: str) -> int:
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def _cut(text: str, n_cells_max: int) -> str:
    while _n_cells(text) > n_cells_max:
        text = text[:-1]
    return text


# The terminal


class _Stage:
    """A terminal on which something stands that other output must not run into."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.n_users = 0
        self._restores: list[Any] = []
        # Whether it is what stands here that is being written.
        self.is_own = False
        self.is_at_start = True
        self._drawn_s = 0.0

    def clear(self) -> None:
        """Take off what stands there."""

    def draw(self) -> None:
        """Put it there again."""

    def enter(self) -> None:
        self.n_users += 1
        if self.n_users == 1:
            for stream in {id(_bare(one)): _bare(one) for one in (self.stream, sys.stdout, sys.stderr)}.values():
                if stream is self.stream or _is_same_terminal(stream, self.stream):
                    self._let_through(stream)

    def leave(self) -> None:
        self.n_users -= 1
        if self.n_users == 0:
            self.forget()

    def forget(self) -> None:
        """Leave the streams as they were."""
        for stream, write in self._restores:
            if getattr(stream, "__dict__", {}).get("write") is write:
                del stream.write
        self._restores.clear()

    def _let_through(self, stream: Any) -> None:
        original = stream.write

        def write(text: str) -> Any:
            with _progress._lock:
                if self.is_own or not self._restores:
                    return original(text)
                self.before()
                n_written = original(text)
                self.after(stream, text[-1:] == "\n" if text else self.is_at_start)
                return n_written

        try:
            stream.write = write
        except (AttributeError, TypeError):  # it cannot be hindered
            return
        self._restores.append((stream, write))

    def before(self) -> None:
        """Something else is going to be written."""
        with self.owned():
            self.clear()

    def after(self, stream: Any, is_at_start: bool) -> None:
        """It has been written."""
        self.is_at_start = is_at_start
        now_s = time.monotonic()
        # While there is much to read, the next tick is soon enough.
        if is_at_start and now_s - self._drawn_s > _progress.INTERVAL_S / 4:
            self._drawn_s = now_s
            stream.flush()
            with self.owned():
                self.draw()

    def owned(self) -> _Owned:
        """A block in which what is written is what stands here."""
        return _Owned(self)


class _Owned:
    def __init__(self, stage: _Stage) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._was = self._stage.is_own
        self._stage.is_own = True

    def __exit__(self, *_exc_info: object) -> None:
        self._stage.is_own = self._was


def _is_same_terminal(stream: Any, other: Any) -> bool:
    try:
        if not (stream.isatty() and other.isatty()):
            return False
        return os.fstat(stream.fileno()).st_rdev == os.fstat(other.fileno()).st_rdev
    except (AttributeError, OSError, ValueError):  # not everything that says it is a terminal is a file
        return False


_N_ROWS_MAX = 12


class _Screen(_Stage):
    """The bars in one terminal, one to a line."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.rows: dict[_ScreenView, Progress] = {}
        self._n_drawn = 0
        # Where the cursor cannot be moved, only the last lines appear.
        self.is_dumb = os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
        try:
            _BLOCKS.encode(getattr(stream, "encoding", None) or "ascii")
            self.is_unicode = True
        except (LookupError, UnicodeEncodeError):
            self.is_unicode = False

    def _size(self) -> tuple[int, int]:
        try:
            n_columns, n_rows = os.get_terminal_size(self.stream.fileno())
        except (AttributeError, OSError, ValueError):
            n_columns, n_rows = 0, 0
        return n_columns or 80, n_rows or 24

    def _home(self) -> str:
        return "\r" + (f"\x1b[{self._n_drawn - 1}A" if self._n_drawn > 1 else "")

    def _put(self, text: str) -> None:
        with self.owned():
            self.stream.write(text)
            self.stream.flush()

    def clear(self) -> None:
        if self._n_drawn:
            text, self._n_drawn = f"{self._home()}\x1b[J", 0
            self._put(text)

    def draw(self) -> None:
        if not self.rows or not self.is_at_start or self.is_dumb:
            return
        n_columns, n_rows = self._size()
        n_shown = max(min(len(self.rows), _N_ROWS_MAX, n_rows - 1), 1)
        lines = [line(progress, n_columns, self.is_unicode) for progress in list(self.rows.values())[:n_shown]]
        if n_shown < len(self.rows):
            lines[-1] = _cut(f"and {len(self.rows) - n_shown + 1} more calls", n_columns - 1)
        text = self._home() + "\n".join(f"{one}\x1b[K" for one in lines) + "\x1b[J"
        self._n_drawn = n_shown
        self._put(text)

    def say(self, progress: Progress) -> None:
        """Write a line that stays."""
        self.clear()
        text = line(progress, self._size()[0], self.is_unicode) + "\n"
        self._put(text if self.is_at_start else f"\n{text}")
        self.is_at_start = True
        self.draw()


class _ScreenView(View):
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._screen: _Screen | None = None

    def open(self) -> None:
        screen = _stages.get(id(self._stream))
        if not isinstance(screen, _Screen):
            screen = _stages[id(self._stream)] = _Screen(self._stream)
        self._screen = screen
        screen.enter()

    def draw(self, progress: Progress) -> None:
        if self._screen is not None:
            self._screen.rows[self] = progress

    def end(self, progress: Progress) -> None:
        if self._screen is not None:
            self._screen.rows.pop(self, None)
            self._screen.say(progress)

    def close(self) -> None:
        screen, self._screen = self._screen, None
        if screen is not None:
            screen.rows.pop(self, None)
            _leave(id(self._stream), screen)


#: By the stream's identity, which they keep alive.
_stages: dict[int, _Stage] = {}


def _leave(key: int, stage: _Stage) -> None:
    stage.leave()
    if stage.n_users == 0 and _stages.get(key) is stage:
        del _stages[key]


def refresh() -> None:
    """Bring up to date what stands in terminals."""
    for key, stage in list(_stages.items()):
        if isinstance(stage, _Screen):
            try:
                stage.draw()
            except (OSError, ValueError):  # the terminal is gone
                stage.rows.clear()
                stage.forget()
                del _stages[key]


def is_drawing() -> bool:
    """Whether something stands in a terminal, so that output has to come by way of Python's streams."""
    return bool(_stages)


def forget() -> None:
    """In a forked process: nothing of it is its own."""
    for stage in _stages.values():
        stage.forget()
    _stages.clear()
    _rich.clear()


class writing:
    """A block in which something is written to a stream below its `write`."""

    def __init__(self, stream: Any, data: bytes) -> None:
        self._stream = stream
        self._data = data

    def __enter__(self) -> None:
        _progress._lock.acquire()
        self._lock = _progress._lock
        self._stages = [stage for stage in _stages.values() if any(one is self._stream for one, _ in stage._restores)]
        for stage in self._stages:
            stage.before()

    def __exit__(self, *_exc_info: object) -> None:
        try:
            for stage in self._stages:
                stage.after(self._stream, self._data.endswith(b"\n"))
        finally:
            self._lock.release()


# Files


class _FileView(View):
    """A line for each tenth, or after some time."""

    PAUSE_S = 10.0

    def __init__(self, file: Any) -> None:
        self._file = file
        self._said_s = 0.0
        self._tenth = 0

    def draw(self, progress: Progress) -> None:
        done = share(progress)
        tenth = 0 if done is None else int(10 * done)
        if tenth > self._tenth or progress.elapsed - self._said_s >= self.PAUSE_S:
            self._tenth, self._said_s = tenth, progress.elapsed
            if progress.status == "running":
                self._say(progress)

    def end(self, progress: Progress) -> None:
        self._say(progress)

    def _say(self, progress: Progress) -> None:
        done = share(progress)
        percent = "" if done is None else f"{int(100 * done)}% "
        self._file.write(f"{_printable(progress.name)}: {percent}{facts(progress)}\n")
        flush = getattr(self._file, "flush", None)
        if flush is not None:
            flush()


# Notebooks


class _Shown:
    """What a notebook displays, in every form it may want."""

    def __init__(self, progress: Progress) -> None:
        self._line = line(progress, 80, True)
        self._name = _printable(progress.name)
        self._facts = facts(progress)
        self._share = share(progress)

    def __repr__(self) -> str:
        return self._line

    def _repr_html_(self) -> str:
        from html import escape

        value = "" if self._share is None else f' value="{self._share:.4f}" max="1"'
        percent = "" if self._share is None else f"{int(100 * self._share)}% "
        return (
            f'<div><span style="margin-right:1em">{escape(self._name)}</span>'
            f'<progress style="width:20em;vertical-align:middle"{value}></progress>'
            f'<span style="margin-left:1em">{percent}{escape(self._facts)}</span></div>'
        )


class _NotebookView(View):
    is_placed = True
    PAUSE_S = 0.2

    def begin(self, progress: Progress) -> None:
        from IPython import display

        show: Any = display.display
        self._handle = show(_Shown(progress), display_id=True)
        self._shown = facts(progress)
        self._shown_s = progress.elapsed

    def draw(self, progress: Progress) -> None:
        if progress.elapsed - self._shown_s >= self.PAUSE_S:
            self._update(progress)

    def end(self, progress: Progress) -> None:
        self._update(progress)

    def _update(self, progress: Progress) -> None:
        shown = facts(progress)
        self._shown_s = progress.elapsed
        if shown != self._shown and self._handle is not None:
            self._shown = shown
            self._handle.update(_Shown(progress))


# Others'


def _tqdm() -> Any:
    try:
        from importlib import import_module

        return import_module("tqdm.auto").tqdm
    except ImportError as error:
        raise _settings.error(f'progress="tqdm" needs the package tqdm, which cannot be imported: {error}.') from error


class _TqdmStage(_Stage):
    """tqdm draws its own bars."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.bars: list[Any] = []

    def clear(self) -> None:
        for one in reversed(self.bars):
            one.clear()

    def draw(self) -> None:
        for one in self.bars:
            one.refresh()


class _TqdmView(View):
    def __init__(self, factory: Any, given: Any, file: Any) -> None:
        self._factory = factory
        self._given = given
        self._file = file
        self._stage: _TqdmStage | None = None
        self.is_placed = factory is not None and _is_notebook()

    def open(self) -> None:
        stream = _bare(sys.stderr) if self._file is None else self._file
        if _is_terminal(stream):
            stage = _stages.get(~id(stream))
            if not isinstance(stage, _TqdmStage):
                stage = _stages[~id(stream)] = _TqdmStage(stream)
            stage.enter()
            self._stage = stage

    def begin(self, progress: Progress) -> None:
        self._bar = self._given
        if self._given is None:
            with self._owned():
                self._bar = self._factory(total=progress.total, desc=_printable(progress.name), file=self._file)
        if self._stage is not None:
            self._stage.bars.append(self._bar)

    def _owned(self) -> Any:
        from contextlib import nullcontext

        return nullcontext() if self._stage is None else self._stage.owned()

    def draw(self, progress: Progress) -> None:
        shown = self._bar
        if progress.total is not None:
            if shown.total != progress.total and hasattr(shown, "reset") and self._given is None and not shown.n:
                with self._owned():
                    shown.reset(total=progress.total)
            shown.total = progress.total
        shown.n = progress.done
        told = ", ".join(troubles(progress))
        if told and hasattr(shown, "set_postfix_str"):
            shown.set_postfix_str(told, refresh=False)
        with self._owned():
            shown.refresh()

    def end(self, progress: Progress) -> None:
        stage = self._stage
        if stage is None:
            if self._given is None:
                self._bar.close()
            return
        with stage.owned():
            # Those below move up.
            stage.clear()
            stage.bars.remove(self._bar)
            if self._given is None:
                self._bar.close()
            else:
                self._bar.refresh()
            stage.draw()

    def close(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            _leave(~id(stage.stream), stage)


#: Ours, if there is one, by the file: a terminal has room for one.
_rich: dict[int, tuple[Any, list[_RichView]]] = {}


class _RichView(View):
    def __init__(self, given: Any, file: Any) -> None:
        self._given = given
        self._file = file
        self.is_placed = given is None and _is_notebook()
        if given is None:
            try:
                import rich.progress  # noqa: F401 - it is to fail now rather than later
            except ImportError as error:
                raise _settings.error(
                    f'progress="rich" needs the package rich, which cannot be imported: {error}.'
                ) from error

    def open(self) -> None:
        # From now on it takes what is written to the terminal.
        self._display = self._given if self._given is not None else self._share()

    def begin(self, progress: Progress) -> None:
        self._task = self._display.add_task(_printable(progress.name), total=progress.total, told="")

    def _share(self) -> Any:
        found = _rich.get(id(self._file))
        if found is None:
            found = _rich[id(self._file)] = (_made_rich(self._file), [])
            found[0].start()
        found[1].append(self)
        return found[0]

    def draw(self, progress: Progress) -> None:
        self._display.update(
            self._task,
            total=progress.total,
            completed=progress.done,
            told=facts(progress),
        )
        if self._given is None:
            self._display.refresh()

    def close(self) -> None:
        if self._given is not None:
            return
        views = _rich[id(self._file)][1]
        views.remove(self)
        if not views:
            del _rich[id(self._file)]
            self._display.stop()


def _made_rich(file: Any) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True) if file is None else Console(file=file)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}", markup=False),
    )
    # Our thread draws, which holds no lock while a process is forked.
    return Progress(*columns, console=console, auto_refresh=False)


class _CallableView(View):
    def __init__(self, function: Callable[[Progress], object]) -> None:
        self._function = function

    def draw(self, progress: Progress) -> None:
        if progress.status == "running":
            self._function(_copy(progress))

    def end(self, progress: Progress) -> None:
        self._function(_copy(progress))


def _copy(progress: Progress) -> Progress:
    copied = _progress.Progress(progress.name)
    for name in progress.__slots__:
        setattr(copied, name, getattr(progress, name))
    return copied
