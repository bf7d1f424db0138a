"""Fetch the browser's libraries of the dashboard anew, as `static/vendor.json` names them: `make vendor`."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parents[2] / "llmctx/dashboard/static"
MANIFEST: Final = STATIC / "vendor.json"
_SOURCE_MAP: Final = re.compile(rb"^//# sourceMappingURL=.*$", re.MULTILINE)


def main() -> int:
    """Fetch each package by npm, take its file and its licence, and note the hash."""
    entries = json.loads(MANIFEST.read_text())
    for one in entries:
        with tempfile.TemporaryDirectory() as folder:
            pack = ["npm", "pack", "--silent", f"{one['package']}@{one['version']}"]
            name = subprocess.run(pack, cwd=folder, check=True, capture_output=True, text=True).stdout.split()[-1]
            with tarfile.open(Path(folder) / name) as archive:
                for member, target in ((one["member"], one["file"]), (one["licence_member"], one["licence"])):
                    stream = archive.extractfile(f"package/{member}")
                    assert stream is not None
                    (STATIC / target).write_bytes(_SOURCE_MAP.sub(b"", stream.read()))
        one["sha256"] = hashlib.sha256((STATIC / one["file"]).read_bytes()).hexdigest()
    MANIFEST.write_text(json.dumps(entries, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
