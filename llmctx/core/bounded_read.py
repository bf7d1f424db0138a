"""Reading files that users name: never more of them than such a file can have, whatever is behind the name."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def read_text(path: Path, most_bytes: int, encoding: str = "utf-8") -> str:
    """Return what `path` holds. Raise OSError also where it has more than `most_bytes`: a device may never end."""
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content.decode(encoding)
