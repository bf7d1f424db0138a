"""A PostgreSQL and its standby, which has each commit before it is acknowledged; one takes the place of the other."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from llmctx.cli.demo.postgres import USER, NoPostgres, make_directory
from tests.kit.cluster import Cluster
from tests.kit.support import wait_until

_PATIENCE_S: Final = 120.0
PORT: Final = 5432


class Node(Cluster):
    """One of the two, on TCP."""

    def __init__(self, address: str) -> None:
        super().__init__(make_directory())
        self.address = address

    def listen(self) -> None:
        """Start it anew on its address, which others may reach without a password."""
        assert self._process is not None
        self.allow("local all all trust", "host all all all trust", "local replication all trust")
        self.stop()
        arguments = self._arguments
        arguments[arguments.index("-h") + 1] = self.address
        self._process.args = arguments
        self.start_again()

    def ask(self, statement: str) -> str:
        """Return what psql prints."""
        done = self._run(
            [str(self.programs / "psql"), "-h", str(self.home), "-U", USER, "-Atqc", statement, "postgres"]
        )
        if done.returncode:
            raise NoPostgres(done.stderr.strip())
        return done.stdout.strip()

    @property
    def _arguments(self) -> list[str]:
        assert self._process is not None
        return [str(one) for one in self._process.args]  # type: ignore[union-attr]  # it is a list

    @property
    def programs(self) -> Path:
        return Path(self._arguments[0]).parent

    def copy_to(self, other: Node) -> None:
        """Make `other` a standby of this one, and start it; it must have ended."""
        shutil.rmtree(other.data, ignore_errors=True)
        if self._as:
            shutil.chown(other.home, self._as["user"], self._as["group"])
        other._as = self._as
        backup = [str(self.programs / "pg_basebackup"), "-h", str(self.home), "-U", USER, "-D", str(other.data)]
        done = self._run([*backup, "-R", "-X", "stream", "-c", "fast", "-N"])
        if done.returncode:
            raise NoPostgres(done.stderr.strip())
        server = [str(self.programs / "postgres"), "-D", str(other.data), "-k", str(other.home)]
        with (other.home / "postgres.log").open("ab") as log:
            other._process = subprocess.Popen(
                [*server, "-h", other.address, "-F", "-N", "200"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=other.home, **self._as,
            )  # fmt: skip


class Pair:
    """The primary, and the standby that every commit waits for."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        first, second = addresses
        self.primary, self.standby = Node(first), Node(second)
        self.home = self.primary.home

    @property
    def places(self) -> tuple[str, ...]:
        """Return `host:port` of both."""
        return tuple(
            f"{node.address}:{PORT}" for node in sorted((self.primary, self.standby), key=lambda one: one.address)
        )

    def start(self) -> None:
        self.primary.start()
        self.primary.listen()
        self._follow()

    def _follow(self) -> None:
        """Let the standby begin as a copy of the primary; from then on commits wait for it."""
        self.primary.copy_to(self.standby)
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_until(lambda: self.primary.ask(streaming) == "1", "the standby to follow", _PATIENCE_S)
        self.primary.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.ask("SELECT pg_reload_conf()")
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: self.primary.ask(synchronous) == "1", "commits to wait for the standby", _PATIENCE_S)

    def crash(self) -> None:
        """The primary, which is back at once."""
        self.primary.crash()
        self.primary.start_again()

    def fail_over(self) -> None:
        """The primary dies for good, and its standby takes over."""
        self.primary.crash()
        self.primary, self.standby = self.standby, self.primary
        self.primary.ask("SELECT pg_promote()")

    def rejoin(self) -> None:
        """Let the one that died be the standby."""
        self._follow()

    def remove(self) -> None:
        for node in (self.standby, self.primary):
            if node._process is not None and node._process.poll() is None:
                node._process.send_signal(signal.SIGQUIT)
            node.remove()


def url_of(places: tuple[str, ...]) -> str:
    """Return a URL that names all of them, for whichever takes rows."""
    hosts = "&".join(f"host={place}" for place in places)
    return f"postgresql+asyncpg://{USER}@/postgres?{hosts}&target_session_attrs=read-write"
