"""``manyhands run``: a Python program, started anew with settings in its environment.

The interpreter replaces this process, so the program is what it is under ``python script.py``: the main module, with
its own arguments, path and functions.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from typing import TYPE_CHECKING

from manyhands import config
from manyhands.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = """\
manyhands run [OPTION ...] SCRIPT [ARGUMENT ...]
       manyhands run [OPTION ...] -m MODULE [ARGUMENT ...]
       manyhands run [OPTION ...] -c CODE [ARGUMENT ...]"""
DESCRIPTION = """\
Run a Python program as python does, with these settings. They are given as the variables MANYHANDS_... in its
environment: what the program itself says by config.set and keywords wins over them, unless there is --force."""
EPILOG = """\
Options stand before the program. --scheduler and --num-workers may stand behind it as well; whatever else stands there
is the program's. If it has options of these names itself, write -- before its own arguments:

  manyhands run study.py --scheduler processes --num-workers 4
  manyhands run --seed 1 study.py --alpha 0.05
  manyhands run --scheduler threads train.py -- --num-workers 8
  manyhands run --scheduler synchronous --force -m pytest -x"""

#: What may also stand behind the program.
_BEHIND = ("--scheduler", "--num-workers")
_HELP = {
    "scheduler": "processes, threads, fork or synchronous",
    "num_workers": "how many workers; by default, as many as there are CPUs for this process",
    "chunksize": "exactly so many tasks at a time to each worker",
    "idle_timeout": 'after how many seconds idle workers end, or "never"',
    "shared_memory_enabled": "yes or no: whether large data travels through shared memory",
    "shared_memory_threshold": "from how many bytes on it does",
    "memory_limit": 'how much memory results that wait may take: "4 GiB", "60%%", unlimited',
    "spill_directory": "an existing folder: where they go beyond that",
    "worker_memory_limit": 'how much memory workers may take themselves, in all: "4 GiB", "60%%", auto, unlimited',
    "relay": "what tasks print appears: yes, no, or ordered as in the serial run",
    "random_misuse": "draws from a global state without a seed: warn, error or ignore",
    "seed": "what random numbers begin with, an integer",
    "retries": "how often a task that raised is run again",
    "retry_delay": "how many seconds it rests before, doubled each time",
    "timeout": "how many seconds a task may run",
    "progress": "show how far calls have come: yes, no, tqdm or rich",
    "resources": "how much there is of what tasks ask for: gpu=2,licence=1",
    "resources_per_worker": "the same for each worker: licence=1",
}


class _Asked:
    """What a command line asks for."""

    def __init__(self) -> None:
        self.options: list[str] = []
        self.program: list[str] = []


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    """What reads the options; the program has been cut off."""
    parser = argparse.ArgumentParser(
        prog="manyhands run",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for key in config.keys():
        parser.add_argument(_option(key), dest=key, metavar="VALUE", help=_HELP.get(key, "see manyhands.config"))
    parser.add_argument("--force", action="store_true", help="have these win over what the program itself says")
    return parser


def _cut(words: Sequence[str]) -> _Asked:
    """Tell the options from the program and its arguments."""
    asked = _Asked()
    rest = list(words)
    with_value = [_option(key) for key in config.keys()]
    while rest:
        word = rest.pop(0)
        if word == "--":
            asked.program = rest
            return asked
        if word in ("-m", "-c"):
            asked.program = [word, *rest[:1]]
            rest = rest[1:]
            break
        if word == "-" or not word.startswith("-"):
            asked.program = [word]
            break
        asked.options.append(word)
        if word in with_value and rest:
            asked.options.append(rest.pop(0))
    _cut_behind(rest, asked)
    return asked


def _cut_behind(rest: list[str], asked: _Asked) -> None:
    """Take out the options that stand behind the program."""
    while rest:
        word = rest.pop(0)
        if word == "--":
            asked.program += rest
            return
        if word.partition("=")[0] in _BEHIND:
            asked.options.append(word)
            if "=" not in word and rest:
                asked.options.append(rest.pop(0))
        else:
            asked.program.append(word)


def _variables(options: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, str]:
    """The environment variables that stand for the options; what is not accepted ends here."""
    variables = {}
    for key in config.keys():
        text = getattr(options, key)
        if text is None:
            continue
        try:
            config.check_text(key, text, _option(key))
        except ConfigError as error:
            parser.error(str(error))
        variables[f"MANYHANDS_{key.upper()}"] = text
    if options.force:
        variables["MANYHANDS_FORCE"] = "1"
    return variables


def main(words: Sequence[str]) -> int:
    """Run the program that the words name.

    Parameters
    ----------
    words : sequence of str
        What stands behind ``manyhands run``.

    Returns
    -------
    int
        Never, where the program can be started: it takes the place of this process.
    """
    asked = _cut(words)
    parser = _parser()
    options, unknown = parser.parse_known_args(asked.options)
    if unknown:
        close = difflib.get_close_matches(unknown[0], [_option(key) for key in config.keys()], 1)
        hint = f"; did you mean {close[0]}?" if close else "."
        parser.error(
            f"{unknown[0]} is not an option of manyhands{hint} The program's own options stand behind its name."
        )
    variables = _variables(options, parser)
    if not asked.program:
        parser.error("there is no program to run: name a script, -m and a module, or -c and a line of code")
    first = asked.program[0]
    if first in ("-m", "-c"):
        if len(asked.program) < 2:
            what = "the name of a module" if first == "-m" else "a line of code"
            parser.error(f"{first} needs {what} after it")
    elif first != "-" and not os.path.exists(first):
        parser.error(f"there is no file {first!r} here, in {os.getcwd()}")
    if not sys.executable:
        parser.error("sys.executable is empty, so there is no interpreter to run the program with")
    from manyhands._pools import _interpreter_options

    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *_interpreter_options(), *asked.program]
    os.execve(sys.executable, command, {**os.environ, **variables})
