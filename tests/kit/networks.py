"""Simulated hosts with a network each, which can be slow, or split from the brokers or from the database.

Where the kernel lets us (root, `ip netns`), a host is a network namespace, with one pair of virtual cables to the
brokers and one to the database; a split takes one of them down, silently. Else its clients go through a `Proxy` to
each server.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Literal

from tests.kit.proxy import Proxy

Far = Literal["brokers", "database"]
"""What a host is slow to reach, or cannot reach."""
FARS: Final[tuple[Far, ...]] = ("brokers", "database")
_NETEM: Final = "netem delay 80ms 20ms loss 2%"
_TBF: Final = "tbf rate 400kbit burst 8kb latency 300ms"  # where the kernel has no netem: what does not fit is lost
_DELAY_S: Final = 0.1
_BLOCK: Final = 16
"""Addresses for servers of one kind."""


class Link(ABC):
    """The network of one host."""

    prefix: tuple[str, ...] = ()
    """Of the command line of a process on it."""

    def __init__(self, brokers: Sequence[str], databases: Sequence[str]) -> None:
        self.brokers = tuple(brokers)
        """Their URLs, as this host reaches them."""
        self.databases = tuple(databases)
        """`host:port` of each."""

    @abstractmethod
    async def slow(self, far: Far) -> None:
        """Delay what goes there and comes back, and lose some of it."""

    @abstractmethod
    async def split(self, far: Far) -> None:
        """Lose all of it; no connection is told."""

    @abstractmethod
    async def heal(self) -> None:
        """Be as at first."""


class Networks(ABC):
    """Where hosts and servers are."""

    kind: str
    broker_hosts: tuple[str, ...] | None = None
    """Addresses for brokers, where they must have certain ones."""
    database_hosts: tuple[str, ...]

    @abstractmethod
    async def host(self, brokers: Sequence[str], databases: Sequence[str]) -> Link:
        """Make a host that reaches these."""

    @abstractmethod
    async def remove(self) -> None:
        """Remove all hosts; their processes must have ended."""


def _do(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.strip()}")


def _try(*commands: str) -> bool:
    try:
        for command in commands:
            _do(command)
    except OSError:
        return False
    return True


class _Namespace(Link):
    def __init__(self, net: str, number: int, brokers: Sequence[str], databases: Sequence[str]) -> None:
        super().__init__(brokers, databases)
        self.name = f"llmctx-{os.getpid()}-{number}"
        self.prefix = ("ip", "netns", "exec", self.name)
        self._cables = {far: f"ll{os.getpid()}{far[0]}{number}"[:15] for far in FARS}
        _do(f"ip netns add {self.name}")
        _do(f"ip -n {self.name} link set lo up")
        for one, (far, cable) in enumerate(self._cables.items()):
            ours, theirs = (f"{net}.{number}.{4 * one + end}" for end in (1, 2))
            for command in (
                f"ip link add {cable} type veth peer name {far} netns {self.name}",
                f"ip addr add {ours}/30 dev {cable}",
                f"ip link set {cable} up",
                f"ip -n {self.name} addr add {theirs}/30 dev {far}",
                f"ip -n {self.name} link set {far} up",
                f"ip -n {self.name} route add {net}.0.{_BLOCK * one}/28 via {ours}",
            ):
                _do(command)

    async def slow(self, far: Far) -> None:
        for how in (_NETEM, _TBF):
            if _try(
                f"tc qdisc replace dev {self._cables[far]} root {how}",
                f"tc -n {self.name} qdisc replace dev {far} root {how}",
            ):
                return
        raise OSError("tc can delay nothing here")

    async def split(self, far: Far) -> None:
        _do(f"ip link set {self._cables[far]} down")

    async def heal(self) -> None:
        for far, cable in self._cables.items():
            _do(f"ip link set {cable} up")
            _try(f"tc qdisc del dev {cable} root", f"tc -n {self.name} qdisc del dev {far} root")

    def remove(self) -> None:
        for cable in self._cables.values():  # at once: a namespace goes when its last process has gone
            _try(f"ip link del {cable}")
        _try(f"ip netns del {self.name}")


class Namespaces(Networks):
    """Raise OSError where there can be none."""

    def __init__(self) -> None:
        if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc"))):
            raise OSError("network namespaces need root, ip and tc")
        self._net = f"10.{random.randint(100, 250)}"
        self._hosts: list[_Namespace] = []
        self.broker_hosts = tuple(f"{self._net}.0.{one}" for one in (1, 2, 3))
        self.database_hosts = tuple(f"{self._net}.0.{_BLOCK + one}" for one in (1, 2))
        self._away = f"blackhole {self._net}.0.0/16 metric 9999"  # what answers a host that is split: not to a gateway
        try:
            for address in (*self.broker_hosts, *self.database_hosts):
                _do(f"ip addr add {address}/32 dev lo")
            _do(f"ip route add {self._away}")
            self._hosts.append(_Namespace(self._net, 250, (), ()))  # as a trial
        except OSError:
            self._remove()
            raise
        self.kind = "network namespaces; " + (
            f"slow is {_NETEM}" if self._has_netem() else f"slow is {_TBF}, for this kernel has no netem"
        )

    def _has_netem(self) -> bool:
        return _try(f"tc -n {self._hosts[0].name} qdisc replace dev brokers root {_NETEM}")

    async def host(self, brokers: Sequence[str], databases: Sequence[str]) -> Link:
        self._hosts.append(_Namespace(self._net, len(self._hosts), brokers, databases))
        return self._hosts[-1]

    async def remove(self) -> None:
        self._remove()

    def _remove(self) -> None:
        for host in self._hosts:
            host.remove()
        _try(f"ip route del {self._away}")
        for address in (*(self.broker_hosts or ()), *self.database_hosts):
            _try(f"ip addr del {address}/32 dev lo")


class _Proxied(Link):
    def __init__(self, brokers: Sequence[Proxy], databases: Sequence[Proxy]) -> None:
        super().__init__([one.url for one in brokers], [one.url.split("@")[-1].split("/")[0] for one in databases])
        self._proxies: dict[Far, Sequence[Proxy]] = {"brokers": brokers, "database": databases}

    async def slow(self, far: Far) -> None:
        for one in self._proxies[far]:
            one.delay_s = _DELAY_S

    async def split(self, far: Far) -> None:
        for one in self._proxies[far]:
            one.flowing.clear()

    async def heal(self) -> None:
        for far in FARS:
            for one in self._proxies[far]:
                one.delay_s = 0.0
                one.flowing.set()


class Proxies(Networks):
    """Belongs to one event loop."""

    kind = "proxies, for there can be no network namespaces"

    def __init__(self) -> None:
        net = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
        self.database_hosts = (f"{net}.101", f"{net}.102")
        self._all: list[Proxy] = []

    async def host(self, brokers: Sequence[str], databases: Sequence[str]) -> Link:
        theirs = [Proxy(url, tcp=True) for url in brokers]
        others = [Proxy(f"postgresql://llmctx@{one}/postgres", tcp=True) for one in databases]
        for one in (*theirs, *others):
            await one.open()
            self._all.append(one)
        return _Proxied(theirs, others)

    async def remove(self) -> None:
        for one in self._all:
            await one.remove()


def networks() -> Networks:
    """Return namespaces where they can be had, else proxies."""
    try:
        return Namespaces()
    except OSError:
        return Proxies()
