"""Where journals lie: a private directory, in it one directory for each process, in that its files and its lock.

Everything is opened relative to a directory that is already open, without following links, with mode 0600 in 0700,
and closed on exec. What belongs to somebody else is not touched.

A process is alive while it holds the `flock` on its lock file, and for no other reason: process ids are used again.
`flock` belongs to the open file, so it is seen also between two journals of one process (POSIX record locks are not,
and vanish when anybody closes another descriptor of the file), but a forked child shares it: `Journal` closes the
child's copy. A directory gets its name after its lock is held, so nobody ever meets one that only seems dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmctx.core.errors import JournalUnavailable

LOCK: Final = "lock"
QUARANTINE: Final = "quarantine"
_NEW: Final = ".new-"
_MADE_S: Final = 3600.0  # longer than it takes to make a directory or a file, whatever its process waits for
_SETTLE: Final = ".settle"
_SAFE: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_private(path: str | os.PathLike[str]) -> int:
    """A descriptor of the directory `path`, which is made if it is missing. Raises `JournalUnavailable`."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
        try:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid():
                raise JournalUnavailable(f"The journal's directory {path} belongs to another user. Choose another one.")
            if stat.S_IMODE(found.st_mode) & 0o077:
                os.fchmod(fd, 0o700)
            probe = f"{_NEW}{secrets.token_hex(8)}"
            os.mkdir(probe, 0o700, dir_fd=fd)
            os.rmdir(probe, dir_fd=fd)
        except BaseException:
            os.close(fd)
            raise
    except OSError as problem:
        raise unavailable(path, problem) from problem
    return fd


def unavailable(directory: str | os.PathLike[str], problem: OSError) -> JournalUnavailable:
    return JournalUnavailable(
        f"The journal's directory {directory} cannot be used: {os.strerror(problem.errno or 0)}. Let "
        "LLMCTX_JOURNAL_DIR name one that this user may make and write."
    )


def open_inside(name: str, root: int) -> int:
    """A descriptor of the directory `name` inside of `root`. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _SAFE, dir_fd=root)
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(errno.EPERM, "belongs to another user")
    return fd


def create(name: str, folder: int) -> int:
    """A descriptor of a new file, for appending. Raises OSError, also if there is one."""
    return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | _SAFE, 0o600, dir_fd=folder)


def read_file(name: str, folder: int) -> bytes:
    """All that can be read of a file; nothing of one that has gone, or is none.

    Raises OSError where it is this process that cannot read now: what it takes for empty it would throw away.
    """
    try:
        fd = os.open(name, os.O_RDONLY | _SAFE, dir_fd=folder)
    except OSError as problem:
        _pass_on_if_it_is_ours(problem)
        return b""
    pieces = []
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            while piece := os.read(fd, 1 << 20):
                pieces.append(piece)
    except OSError as problem:  # the disk: what it gave so far counts
        _pass_on_if_it_is_ours(problem)
    finally:
        os.close(fd)
    return b"".join(pieces)


def append(fd: int, data: bytes) -> tuple[int, str]:
    """How much of `data` was written, and why not all. A full disk first writes a part, and only then says so."""
    written = 0
    view = memoryview(data)
    try:
        while written < len(data):
            written += os.write(fd, view[written:])
    except OSError as problem:
        return written, os.strerror(problem.errno or 0)
    return written, ""


def leads_to(path: str | os.PathLike[str], fd: int, root: int | None = None) -> bool:
    """Whether `path` is still the way to the open directory `fd`: it may have been moved, or another put over it."""
    try:
        return os.path.samestat(os.stat(path, dir_fd=root, follow_symlinks=False), os.fstat(fd))
    except OSError:
        return False


def replace(name: str, folder: int, data: bytes) -> None:
    """Give a file other contents, all or nothing. Raises OSError."""
    new = f"{_NEW}{secrets.token_hex(8)}"
    fd = create(new, folder)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fdatasync(fd)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(new, dir_fd=folder)
        raise
    finally:
        os.close(fd)


def request_rotation(root: int) -> None:
    """Ask every living process to begin new files. Raises OSError."""
    fd = os.open(_SETTLE, os.O_WRONLY | os.O_CREAT | _SAFE, 0o600, dir_fd=root)
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def called_to_settle(root: int) -> int:
    """When that was asked last, in ns; 0 if never."""
    try:
        return os.stat(_SETTLE, dir_fd=root, follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def names_in(folder: int) -> list[str]:
    """What lies in an open directory, in order, but for what is being made. Raises OSError as `read_file` does."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as problem:
        _pass_on_if_it_is_ours(problem)
        return []


def _pass_on_if_it_is_ours(problem: OSError) -> None:
    """No descriptor or no memory is left to this process, or to the machine: that says nothing of the file."""
    if problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise problem


def lock(folder: int, name: str = LOCK) -> int | None:
    """A descriptor that holds the lock of a directory, or None: somebody else holds it, or it has gone."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | _SAFE, 0o600, dir_fd=folder)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # whoever had it may have taken the directory away meanwhile: then this is the lock of nothing
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def make_home(root: int) -> tuple[str, int, int]:
    """A new directory for this process: its name, a descriptor, and one that holds its lock. Raises OSError."""
    name = f"{os.getpid()}-{boot_id()[:8]}-{secrets.token_hex(8)}"
    os.mkdir(_NEW + name, 0o700, dir_fd=root)
    try:
        folder = open_inside(_NEW + name, root)
    except OSError:
        os.rmdir(_NEW + name, dir_fd=root)
        raise
    held = lock(folder)
    if held is None:
        clear(_NEW + name, folder, root)
        os.close(folder)
        raise OSError(errno.ENOLCK, "the journal's lock cannot be held")
    os.rename(_NEW + name, name, src_dir_fd=root, dst_dir_fd=root)
    return name, folder, held


def homes_in(root: int) -> Iterator[str]:
    """Names of the directories of processes."""
    for name in names_in(root):
        if name != QUARANTINE:
            yield name


def folders_in(root: int) -> Iterator[tuple[str, int]]:
    """The journals in `root`, each with a descriptor of its directory, which is the caller's to close."""
    for name in homes_in(root):
        try:
            folder = open_inside(name, root)
        except OSError:  # gone meanwhile, or no business of ours
            continue
        yield name, folder


def clear(name: str, folder: int, root: int) -> None:
    """Take a directory away, its lock last. Never raises: what is left is found by the next one."""
    with contextlib.suppress(OSError):  # with what was being made when its process was killed
        for file in sorted(os.listdir(folder), key=LOCK.__eq__):
            with contextlib.suppress(OSError):  # the others may still go
                os.unlink(file, dir_fd=folder)
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=root)


def sweep(folder: int) -> None:
    """Take away what somebody was making an hour ago, and was killed over. Never raises."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if not name.startswith(_NEW):
                continue
            with contextlib.suppress(OSError):  # gone meanwhile, or no business of ours
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if found.st_mtime > time.time() - _MADE_S:
                    continue
                if not stat.S_ISDIR(found.st_mode):
                    os.unlink(name, dir_fd=folder)
                    continue
                inside = open_inside(name, folder)
                try:
                    clear(name, inside, folder)
                finally:
                    os.close(inside)


def boot_id() -> str:
    """Which start of the machine this is: with the process id it tells people whose directory they look at."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "").strip()
    except OSError:
        return "0" * 32
