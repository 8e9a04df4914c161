"""Run the stages of a check one after the other, and close with a table of what became of each.

A stage is a few commands. Stages go on after a failure, except those that need what failed, so that one run
shows everything that is wrong.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from environment import ROOT, EnvironmentFailure

Command = Sequence[str | Path]

# A stage that hangs is a failure with a name. Ten times what the slowest takes on two cores with nothing else to do.
STAGE_TIMEOUT_S = 3600

# The lines in which the tools themselves say how it went; repeated verbatim at the very end.
RESULT_LINE = re.compile(
    r"^=+ .*\b(passed|failed|error|errors|skipped|deselected|no tests ran)\b.* in [\d.]+s.* =+$"  # pytest
    r"|^test result: (?!ok\. 0 passed; 0 failed; 0 ignored)"  # cargo test; nothing to say about nothing
    r"|^\s*Summary \[.*tests? run"  # cargo nextest
    r"|^(Success|Found \d+ error)"  # mypy, ruff
    r"|^(tidy|simulate|simulation|site|peers): "  # xtask, and what could not be run of the peers' own tests
)


@dataclass(frozen=True)
class Stage:
    """Something that must hold, and the commands that say whether it does."""

    name: str
    why: str
    commands: Callable[[], Sequence[Command]] = field(repr=False)
    """Asked when the stage's turn comes: what there is to run may depend on earlier stages."""
    needs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of a stage."""

    stage: str
    status: str
    wall_s: float = 0.0
    detail: str = ""
    result_lines: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether what the stage checks holds."""
        return self.status == "passed"


def run_stages(stages: Sequence[Stage], env: Mapping[str, str]) -> list[Outcome]:
    """Run stages in order; a stage whose need did not pass is not run, which counts as a failure."""
    outcomes: dict[str, Outcome] = {}
    for stage in stages:
        missing = [need for need in stage.needs if need in outcomes and not outcomes[need].passed]
        if missing:
            outcome = Outcome(stage.name, "not run", detail=f"needs {', '.join(missing)}")
        else:
            print(f"\n--- {stage.name}: {stage.why}", flush=True)
            outcome = run_stage(stage, {**env, **stage.env})
        outcomes[stage.name] = outcome
    return list(outcomes.values())


def run_stage(stage: Stage, env: Mapping[str, str]) -> Outcome:
    """Run the commands of one stage, all of them: the second may tell more than the first that failed."""
    outcome = Outcome(stage.name, "passed")
    started = time.monotonic()
    try:
        for command in stage.commands():
            words = [str(word) for word in command]
            print("$ " + " ".join(shown(word) for word in words), flush=True)
            status = run_echoing(words, env, outcome.result_lines)
            if status != 0:
                outcome.status = "FAILED"
                failure = f"{describe_status(status)}: {' '.join(shown(word) for word in words)}"
                outcome.detail = outcome.detail or failure
    except (EnvironmentFailure, OSError) as failure:
        print(failure, flush=True)
        outcome.status = "FAILED"
        outcome.detail = str(failure)
    outcome.wall_s = time.monotonic() - started
    return outcome


def run_echoing(words: Sequence[str], env: Mapping[str, str], result_lines: list[str]) -> int:
    """Run a command, pass on what it writes as it comes, and keep its result lines.

    The command gets its own process group, so that a stage out of time is ended with everything it started.
    """
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timer = threading.Timer(STAGE_TIMEOUT_S, end_group, [process.pid, signal.SIGKILL])
    timer.daemon = True
    timer.start()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            if RESULT_LINE.search(line.rstrip()):
                result_lines.append(line.rstrip())
        return process.wait()
    except KeyboardInterrupt:
        end_group(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            end_group(process.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()


def end_group(group: int, signal_number: int) -> None:
    """Signal a process group that may be gone already."""
    try:
        os.killpg(group, signal_number)
    except ProcessLookupError:
        pass


def describe_status(status: int) -> str:
    """Put an exit status in words."""
    if status == -signal.SIGKILL:
        return f"killed (out of memory, or ran longer than {STAGE_TIMEOUT_S} s)"
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"exit status {status}"


def shown(word: str) -> str:
    """Shorten a path inside the checkout to its relative form."""
    return word.removeprefix(f"{ROOT}/")


def summary(title: str, outcomes: Sequence[Outcome]) -> str:
    """Write the closing lines: a table, what the tools said, and one line that says it all."""
    width = max([len(outcome.stage) for outcome in outcomes] + [5])
    lines = [f"{title}", f"  {'stage':<{width}}  result   seconds"]
    for outcome in outcomes:
        row = f"  {outcome.stage:<{width}}  {outcome.status:<7}  {outcome.wall_s:7.1f}  {outcome.detail}"
        lines.append(row.rstrip())
    for outcome in outcomes:
        if outcome.result_lines:
            lines += [f"{outcome.stage}:", *outcome.result_lines]
    failed = [outcome.stage for outcome in outcomes if not outcome.passed]
    wall_s = sum(outcome.wall_s for outcome in outcomes)
    if failed:
        lines.append(f"{title}: FAILED in {wall_s:.0f} s, {len(failed)} of {len(outcomes)}: {', '.join(failed)}")
    else:
        lines.append(f"{title}: all {len(outcomes)} passed in {wall_s:.0f} s")
    return "\n".join(lines) + "\n"


def close(title: str, file_stem: str, outcomes: Sequence[Outcome]) -> int:
    """Print the summary, leave a copy under ``target/check``, and return the exit status."""
    text = summary(title, outcomes)
    folder = ROOT / "target" / "check"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{file_stem}.txt").write_text(text)
    print("\n" + text, end="", flush=True)
    return 0 if outcomes and all(outcome.passed for outcome in outcomes) else 1


def forget_summary(file_stem: str) -> None:
    """Remove the copy of an earlier summary, so that it cannot pass for this run's."""
    (ROOT / "target" / "check" / f"{file_stem}.txt").unlink(missing_ok=True)
