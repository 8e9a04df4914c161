"""The command ``manyhands``: what it can do, and its help."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from manyhands import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = "Plain Python functions in parallel: look at this machine, run a program, compare the schedulers."
EPILOG = "manyhands COMMAND --help says more about a command."


def parser() -> argparse.ArgumentParser:
    """What the command line is read with."""
    whole = argparse.ArgumentParser(prog="manyhands", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    whole.add_argument("--version", action="version", version=f"manyhands {__version__}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    doctor = commands.add_parser(
        "doctor",
        help="say what manyhands finds on this machine, and whether every scheduler works",
        description="Say what manyhands finds on this machine, and try every scheduler. The exit status is 0 if all "
        "of it works, else 1.",
        allow_abbrev=False,
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object, for programs and reports of faults")
    doctor.add_argument("--no-self-test", action="store_true", help="only look, run nothing")
    # Reads its options itself: those after the program's name are the program's.
    commands.add_parser("run", help="run a Python program with these settings", add_help=False)
    commands.add_parser(
        "bench",
        help="compare the schedulers on this machine, beside concurrent.futures",
        description="Compare the schedulers on this machine, and concurrent.futures beside them, in some ten seconds. "
        "Figures are worth something on a machine that has nothing else to do.",
        allow_abbrev=False,
    )
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the command's name; by default those of this process.

    Returns
    -------
    int
        The exit status: 0, or 1 if something does not work; a command line that is not understood ends with 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["run"]:
        from manyhands._run_program import main as run

        return run(words[1:])
    whole = parser()
    chosen = whole.parse_args(words)
    if chosen.command == "doctor":
        from manyhands._doctor import main as doctor

        return doctor(as_json=chosen.json, self_test=not chosen.no_self_test)
    if chosen.command == "bench":
        from manyhands._bench import main as bench

        return bench()
    whole.print_help()
    return 2
