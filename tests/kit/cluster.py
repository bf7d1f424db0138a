"""A PostgreSQL of a test's own, to be killed, stopped and started again; made from the PyPI wheel, as root or not."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil

from llmctx.cli.demo.postgres import NoPostgres, Server, make_directory


class Cluster(Server):
    """`start` makes and starts it; what is committed survives `crash`."""

    def crash(self) -> None:
        """Immediate shutdown: connections are cut in the middle of whatever they do."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def start_again(self) -> None:
        """As soon as nothing of the last one is left: its children may outlive it, and hold its memory."""
        assert self._process is not None
        deadline = time.monotonic() + 30
        while True:
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            with (self.home / "postgres.log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._process.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.home, **self._as
                )
            try:
                return self._wait()
            except NoPostgres:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def revive(self) -> None:
        """Start it again if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            self.start_again()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """No process of the server runs: a machine that hangs."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        halted = [postmaster, *postmaster.children(recursive=True)]
        for process in halted:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in halted:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def allow(self, *lines: str) -> None:
        """Let these lines of `pg_hba.conf` say who may come in."""
        assert self._process is not None
        (self.data / "pg_hba.conf").write_text("\n".join(lines) + "\n")
        self._process.send_signal(signal.SIGHUP)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)


def cluster() -> Iterator[Cluster]:
    """For a fixture."""
    made = Cluster(make_directory())
    try:
        made.start()
        yield made
    finally:
        made.remove()
