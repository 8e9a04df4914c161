"""Make a virtual environment in the checkout, and build and install manyhands into it where that is due.

Runs on the bare interpreter, before anything is installed: standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What a wheel is made of. Anything else may change without a new build.
SOURCES = ("Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md", "LICENSE-APACHE", "LICENSE-MIT")
SOURCE_FOLDERS = {"crates": {".rs", ".toml"}, "python": {".py", ".pyi", ".typed"}}


class EnvironmentFailure(Exception):
    """The environment could not be made; the message says what to do."""


class Environment:
    """One virtual environment, and stamps that say what is in it.

    A stamp holds the digest of what it was made from. It is removed before the work and written after it, so
    that work which was cut short is done again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.python = self.folder / "bin" / "python"
        self.stamps = self.folder / ".manyhands"

    def prepare(self, requirements: str) -> None:
        """Bring the environment up to date with ``requirements/<requirements>.txt``."""
        with self._locked():
            self._create()
            self._install_requirements(requirements)

    def install_package(self) -> None:
        """Build manyhands in release mode and install it, unless the installed one is of the same sources."""
        with self._locked():
            digest = source_digest()
            if self._stamp("package") == digest:
                return
            self._forget("package")
            print(f"building manyhands for {self.folder.name}", flush=True)
            wheels = self.stamps / "wheels"
            shutil.rmtree(wheels, ignore_errors=True)
            maturin: list[str | Path] = [self.python, "-m", "maturin", "build", "--release", "--locked"]
            run([*maturin, "--interpreter", self.python, "--out", wheels], env=cargo_environment(self.python))
            (wheel,) = wheels.glob("*.whl")
            self._pip("install", "--force-reinstall", "--no-deps", wheel)
            self._remember("package", digest)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the environment: two makes started at once take turns."""
        lock = ROOT / "target" / f"environment-{self.folder.name}.lock"
        lock.parent.mkdir(exist_ok=True)
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _create(self) -> None:
        interpreter = interpreter_digest()
        if self._stamp("interpreter") == interpreter:
            return
        if self.folder.exists():
            if not self.stamps.is_dir():
                raise EnvironmentFailure(
                    f"{self.folder} exists and was not made by this Makefile. "
                    "Move it away, or name another place: make VENV=.venvs/mine ..."
                )
            shutil.rmtree(self.folder)
        version = ".".join(map(str, sys.version_info[:3]))
        print(f"making the environment {self.folder.name} (Python {version})", flush=True)
        self.stamps.mkdir(parents=True)
        # The base interpreter, because this one may live in the environment just removed.
        base = getattr(sys, "_base_executable", None) or sys.executable
        run([base, "-m", "venv", self.folder])
        self._remember("interpreter", interpreter)

    def _install_requirements(self, name: str) -> None:
        digest = requirements_digest(name)
        stamp = f"requirements-{name}"
        if self._stamp(stamp) == digest:
            return
        self._forget(stamp)
        print(f"installing requirements/{name}.txt into {self.folder.name}", flush=True)
        self._pip("install", "--requirement", ROOT / "requirements" / f"{name}.txt")
        self._remember(stamp, digest)

    def _pip(self, *arguments: str | Path) -> None:
        run([self.python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments])

    def _stamp(self, name: str) -> str | None:
        try:
            return (self.stamps / name).read_text()
        except FileNotFoundError:
            return None

    def _forget(self, name: str) -> None:
        (self.stamps / name).unlink(missing_ok=True)

    def _remember(self, name: str, digest: str) -> None:
        (self.stamps / name).write_text(digest)


def run(command: list[str | Path], env: dict[str, str] | None = None) -> None:
    """Run a command in the checkout; raise with the whole command when it fails."""
    words = [str(word) for word in command]
    status = subprocess.run(words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False).returncode
    if status != 0:
        raise EnvironmentFailure(f"failed with status {status}: {' '.join(words)}")


def cargo_environment(python: Path) -> dict[str, str]:
    """Return the environment that every cargo and maturin call shares.

    PyO3 rebuilds whenever one of these differs from the last call, so all calls must agree on them. They are those
    that maturin sets.
    """
    version = sys.version_info
    return {
        **os.environ,
        "PYO3_PYTHON": str(python),
        "PYTHON_SYS_EXECUTABLE": str(python),
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "PYO3_ENVIRONMENT_SIGNATURE": f"cpython-{version.major}.{version.minor}-{8 * struct.calcsize('P')}bit",
    }


def interpreter_digest() -> str:
    """Identify the interpreter that an environment is made from."""
    return digest_of([sys.version.encode(), os.path.realpath(sys.base_prefix).encode()])


def requirements_digest(name: str) -> str:
    """Digest a requirements file together with those that it includes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    included = [line.split()[1] for line in text.splitlines() if line.startswith("-r ")]
    return digest_of([text.encode(), *(requirements_digest(Path(file).stem).encode() for file in included)])


def source_digest() -> str:
    """Digest everything that a wheel is made of."""
    files = [ROOT / name for name in SOURCES]
    for folder, suffixes in SOURCE_FOLDERS.items():
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes or path.name == "py.typed"]
    parts: list[bytes] = []
    for path in sorted(set(files)):
        if path.is_file():
            parts += [str(path.relative_to(ROOT)).encode(), path.read_bytes()]
    return digest_of(parts)


def digest_of(parts: list[bytes]) -> str:
    """Digest byte strings so that moving a border between two of them changes the digest."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def main() -> None:
    """Prepare the environment named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requirements", help="a file of requirements/, without .txt")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--without-package", action="store_true", help="do not build and install manyhands")
    arguments = parser.parse_args()
    environment = Environment(arguments.venv)
    try:
        environment.prepare(arguments.requirements)
        if not arguments.without_package:
            environment.install_package()
    except EnvironmentFailure as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
