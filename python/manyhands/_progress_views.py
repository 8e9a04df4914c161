"""Where progress appears: lines of the terminal, cells of a notebook, tqdm, rich, files, and callables.

How other output makes way for what stands in a terminal, and which locks are held meanwhile, is the business of
`manyhands._progress_stages`.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock

from manyhands import _progress, _settings
from manyhands._progress_stages import Stage, bare, forget_own, is_richs, is_terminal, owned, stages, take, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from manyhands._progress import Progress

__all__ = ["View", "forget", "is_drawing", "locks", "refresh", "take", "view_of", "writing"]


class View:
    """Shows one call."""

    #: Whether it has a place of its own, so that it matters which thread begins it, and when.
    is_placed = False
    #: Whether any failure of it is told of; else those that say that its file or terminal is gone are not.
    is_outspoken = False

    def open(self) -> None:
        """Called as the call begins, in its thread. Nothing is shown yet."""

    def close(self) -> None:
        """Called when it has ended."""

    def is_amid_line(self) -> bool:
        """Whether a last line would break one that the program has begun."""
        return False

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
    stream = bare(sys.stderr) if file is None else file
    if is_richs(stream) and kind in ("auto", "bar"):
        return _LastLineView(stream)
    if kind == "notebook" or (kind == "auto" and file is None and _is_notebook()):
        return _NotebookView()
    if kind in ("tqdm", "rich"):
        if file is None and not (_is_notebook() or is_terminal(stream)):
            return None
        return _TqdmView(_tqdm(), None, file) if kind == "tqdm" else _RichView(None, file)
    if is_terminal(stream):
        return _ScreenView(stream)
    return None if file is None else _FileView(file)


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


def locks() -> list[Any]:
    """What nobody may have at the moment of a fork, in the order in which they are taken."""
    found: list[Any] = []
    for display, _ in list(_rich.values()):
        owners = (getattr(display, "live", None), display, getattr(display, "console", None))
        found += [getattr(owner, "_lock", None) for owner in owners]
    # tqdm's lock among processes is no matter of one of them.
    found += [getattr(lock, "th_lock", lock) for lock in [stage.lock() for stage in list(stages.values())]]
    return [one for one in found if hasattr(one, "acquire")]


_N_ROWS_MAX = 12


class _Screen(Stage):
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

    def _margin(self) -> str:
        """What leads to the beginning of a line, whatever was written before anybody looked.

        A line of blanks: it ends in the next line, unless it has begun at the beginning of this one.
        """
        if not self.is_fresh or self.is_dumb:
            return ""
        self.is_fresh = False
        try:
            return " " * os.get_terminal_size(self.stream.fileno())[0] + "\r"
        except (AttributeError, OSError, ValueError):
            return ""

    def _put(self, text: str) -> None:
        with owned:
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
        text = self._margin() + self._home() + "\n".join(f"{one}\x1b[K" for one in lines) + "\x1b[J"
        self._n_drawn = n_shown
        self._put(text)

    def say(self, progress: Progress) -> None:
        """Write a line that stays."""
        self.clear()
        text = line(progress, self._size()[0], self.is_unicode) + "\n"
        self._put(self._margin() + text if self.is_at_start else f"\n{text}")
        self.is_at_start = True
        self.draw()


class _ScreenView(View):
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._screen: _Screen | None = None

    def open(self) -> None:
        with _progress._lock:
            screen = stages.get(id(self._stream))
            if not isinstance(screen, _Screen):
                screen = stages[id(self._stream)] = _Screen(self._stream)
            self._screen = screen
            screen.enter()

    def is_amid_line(self) -> bool:
        return self._screen is not None and not self._screen.is_at_start

    def draw(self, progress: Progress) -> None:
        with _progress._lock:
            if self._screen is not None:
                # Other threads draw it, too.
                self._screen.rows[self] = _copy(progress)

    def end(self, progress: Progress) -> None:
        with _progress._lock:
            if self._screen is not None:
                self._screen.rows.pop(self, None)
                self._screen.say(progress)

    def close(self) -> None:
        with _progress._lock:
            screen, self._screen = self._screen, None
            if screen is not None:
                screen.rows.pop(self, None)
                screen.leave(id(self._stream))


class _LastLineView(View):
    """Where somebody else's bars stand in the terminal: one line, as any other output."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def end(self, progress: Progress) -> None:
        # It is rich that writes it, and knows how wide the terminal is.
        self._stream.write(line(progress, 80, True) + "\n")


def refresh() -> None:
    """Bring up to date what stands in terminals."""
    with _progress._lock:
        for key, stage in list(stages.items()):
            if isinstance(stage, _Screen):
                try:
                    stage.draw()
                except Exception:  # the terminal is gone
                    stage.rows.clear()
                    stage.forget()
                    stages.pop(key, None)


def is_drawing() -> bool:
    """Whether something stands in a terminal, so that output has to come by way of Python's streams."""
    return bool(stages)


def forget() -> None:
    """In a forked process: nothing of it is its own."""
    for stage in list(stages.values()):
        stage.forget()
    stages.clear()
    _rich.clear()
    forget_own()


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


class _TqdmStage(Stage):
    """tqdm draws its own bars."""

    def __init__(self, stream: Any, get_lock: Callable[[], Any] | None) -> None:
        super().__init__(stream)
        self.bars: list[Any] = []
        self.is_drawn = False
        self._get_lock = get_lock
        self._own_lock = RLock()

    def lock(self) -> Any:
        lock = None if self._get_lock is None else self._get_lock()
        return self._own_lock if lock is None else lock

    def clear(self) -> None:
        # What stands there otherwise is half a line of somebody's.
        if self.is_drawn:
            self.is_drawn = False
            for one in reversed(self.bars):
                one.clear()

    def draw(self) -> None:
        if self.is_at_start:
            self.is_drawn = True
            for one in self.bars:
                one.refresh()


class _TqdmView(View):
    def __init__(self, factory: Any, given: Any, file: Any) -> None:
        self._factory = factory
        self._given = given
        self._file = file
        self._bar = given
        self._stage: _TqdmStage | None = None
        self.is_placed = factory is not None and _is_notebook()

    def open(self) -> None:
        stream = bare(sys.stderr) if self._file is None else self._file
        if is_terminal(stream):
            get_lock = getattr(self._factory or self._given, "get_lock", None)
            with _progress._lock:
                stage = stages.get(~id(stream))
                if not isinstance(stage, _TqdmStage):
                    stage = stages[~id(stream)] = _TqdmStage(stream, get_lock)
                stage.enter()
            self._stage = stage

    def is_amid_line(self) -> bool:
        return self._stage is not None and not self._stage.is_at_start

    def _held(self) -> Any:
        """A block with tqdm's lock, in which what is written is the bars."""
        from contextlib import ExitStack

        block = ExitStack()
        if self._stage is not None:
            block.enter_context(self._stage.lock())
            block.enter_context(owned)
        return block

    def begin(self, progress: Progress) -> None:
        stage = self._stage
        with self._held():
            if stage is not None and not stage.is_at_start:
                # It appears at once, and would wipe out the beginning of a line.
                stage.stream.write("\n")
                stage.is_at_start = True
            if self._given is None:
                self._bar = self._factory(total=progress.total, desc=_printable(progress.name), file=self._file)
            if stage is not None:
                stage.is_drawn = True
                stage.bars.append(self._bar)

    def draw(self, progress: Progress) -> None:
        shown, stage = self._bar, self._stage
        with self._held():
            is_free = stage is None or stage.is_at_start
            if progress.total is not None:
                has_to_begin = self._given is None and not shown.n and is_free
                if shown.total != progress.total and hasattr(shown, "reset") and has_to_begin:
                    shown.reset(total=progress.total)
                shown.total = progress.total
            shown.n = progress.done
            told = ", ".join(troubles(progress))
            if told and hasattr(shown, "set_postfix_str"):
                shown.set_postfix_str(told, refresh=False)
            if is_free:
                if stage is not None:
                    stage.is_drawn = True
                shown.refresh()

    def end(self, progress: Progress) -> None:
        stage = self._stage
        with self._held():
            if stage is None:
                if self._given is None:
                    self._bar.close()
                return
            # Those below move up.
            stage.clear()
            if not stage.is_at_start:
                stage.stream.write("\n")
                stage.is_at_start = True
            stage.bars.remove(self._bar)
            if self._given is None:
                self._bar.close()
            else:
                self._bar.refresh()
            stage.draw()

    def close(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            with stage.lock():
                if self._bar in stage.bars:
                    # It could not be drawn any more.
                    stage.bars.remove(self._bar)
            stage.leave(~id(stage.stream))


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
        # Made without the lock, which is none to import something under.
        made = None if id(self._file) in _rich else _made_rich(self._file)
        with _progress._lock:
            found = _rich.get(id(self._file))
            if found is None:
                found = _rich[id(self._file)] = (made or _made_rich(self._file), [])
            found[1].append(self)
        # Does nothing where it has begun.
        found[0].start()
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
        with _progress._lock:
            found = _rich.get(id(self._file))
            if found is None or self not in found[1]:
                return
            found[1].remove(self)
            if found[1]:
                return
            del _rich[id(self._file)]
        found[0].stop()


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
    is_outspoken = True

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
