"""Simulated hosts: a network, a disk for journals and a clock each, where they can be had."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.kit.clock import SteppedClock
from tests.kit.networks import Link
from tests.kit.small_disk import SmallDisk
from tests.scale.fleet import ROOT, Fleet, fleet

_DISK_MB: Final = 64


@dataclass(slots=True)
class Host:
    """Where processes of one fleet or two run."""

    name: str
    environment: dict[str, str]
    link: Link | None = None
    disk: SmallDisk | None = None
    clock: SteppedClock | None = None
    applications: Fleet | None = None
    ships: Fleet | None = None
    wants: dict[str, str] = field(default_factory=dict)
    """What it lacks, and why."""

    def equip(self, folder: Path, until_end: contextlib.ExitStack) -> None:
        """Give it a disk and a clock in `folder`."""
        folder.mkdir()
        journals = folder / "journals"
        self.environment["LLMCTX_JOURNAL_DIR"] = str(journals)
        try:
            self.disk = SmallDisk(journals, _DISK_MB)
            until_end.callback(self.disk.remove)
        except OSError as problem:
            self.wants["disk full"] = str(problem)
        try:
            self.clock = SteppedClock(folder)
            self.environment |= self.clock.environment
        except OSError as problem:
            self.wants["clock step"] = str(problem)

    def run(
        self, module: str, *arguments: str, draw: random.Random, until_end: contextlib.ExitStack, root: Path = ROOT
    ) -> Fleet:
        """Begin a fleet here, of no process yet; of another checkout, where `root` is one."""
        prefix = () if self.link is None else self.link.prefix
        return until_end.enter_context(
            fleet(module, *arguments, draw=draw, prefix=prefix, environment=self.environment, root=root)
        )
