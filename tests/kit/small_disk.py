"""A disk of a directory's own that can be full: a small tmpfs, which needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Final

_CHUNK: Final = 65_536


class SmallDisk:
    """Of so many megabytes, mounted on `folder`. Raise OSError where nothing can be mounted."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "llmctx", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr.strip())
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no byte."""
        ballast = os.open(self._ballast, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            for size in (_CHUNK, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(ballast, bytes(size))
        finally:
            os.close(ballast)

    def free(self) -> None:
        """Have room again."""
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True)
