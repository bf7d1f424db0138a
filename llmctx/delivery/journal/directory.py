"""Where journals lie: a private directory, in it one directory for each process, in that its files and its lock.

Everything is opened relative to a directory that is already open, without following links, with mode 0600 in 0700,
and closed on exec. What belongs to another user is not touched.

A process that is alive holds the `flock` on its lock file; where the lock is free, `owner.py` tells. `flock` belongs
to the open file, so it is seen also between two journals of one process (POSIX record locks are not, and vanish when
another descriptor of the file is closed), but a forked child shares it: `Journal` closes the child's copy. A directory
gets its name after its lock is held, so no process ever meets one that only seems dead.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmctx.core.errors import JournalUnavailable, is_shortage

LOCK: Final = "lock"
DEAD_LETTERS: Final = "quarantine"
_PROCESS: Final = re.compile(r"\d+-[0-9a-f]+-[0-9a-f]+")  # what else lies there is not ours
_NEW: Final = ".new-"
_MADE_S: Final = 3600.0  # longer than it takes to make a directory or a file, whatever its process waits for
_ROTATE: Final = ".settle"
HAS_LOCKS: Final = importlib.util.find_spec("fcntl") is not None  # Windows has none of the sort
_SAFE: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK if HAS_LOCKS else 0


def open_private(path: str | os.PathLike[str]) -> int:
    """Return a descriptor of the directory `path`, which is made if it is missing. Raise `JournalUnavailable`."""
    path = Path(path)
    if not HAS_LOCKS:
        raise JournalUnavailable("This platform has no file locks as the journal needs them.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
        try:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid():
                raise JournalUnavailable(
                    f"The journal's directory {path} belongs to another user. Choose another directory."
                )
            if stat.S_IMODE(found.st_mode) & 0o077:
                os.fchmod(fd, 0o700)
            probe = f"{_NEW}{secrets.token_hex(8)}"
            os.mkdir(probe, 0o700, dir_fd=fd)
            os.rmdir(probe, dir_fd=fd)
        except BaseException:
            os.close(fd)
            raise
    except (OSError, ValueError) as problem:  # ValueError: a path that is none
        raise unavailable_error(path, problem) from problem
    return fd


def unavailable_error(directory: str | os.PathLike[str], problem: Exception) -> JournalUnavailable:
    number = getattr(problem, "errno", None)
    return JournalUnavailable(
        f"The journal's directory {directory} cannot be used: {os.strerror(number) if number else problem}. Set "
        "LLMCTX_JOURNAL_DIR to one that this user may create and write."
    )


def open_inside(name: str, root: int) -> int:
    """Return a descriptor of the directory `name` inside of `root`. Raise OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _SAFE, dir_fd=root)
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(errno.EPERM, "belongs to another user")
    return fd


def create(name: str, folder: int) -> int:
    """Return a descriptor of a new file, for appending and reading. Raise OSError, also if there is one."""
    return os.open(name, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _SAFE, 0o600, dir_fd=folder)


def read_file(name: str, folder: int) -> bytes:
    """Return all that can be read of a file; nothing of one that has gone, or is none.

    Raise OSError where it is this process that cannot read now: what it takes for empty it would throw away.
    """
    try:
        fd = os.open(name, os.O_RDONLY | _SAFE, dir_fd=folder)
    except OSError as problem:
        pass_on_shortage(problem)
        return b""
    try:
        return read_descriptor(fd)
    finally:
        os.close(fd)


def read_descriptor(fd: int) -> bytes:
    """Return all that can be read of an open file, as `read_file`, wherever it lies by now."""
    pieces: list[bytes] = []
    at = 0
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            while piece := os.pread(fd, 1 << 20, at):
                pieces.append(piece)
                at += len(piece)
    except OSError as problem:  # the disk: what it gave so far counts
        pass_on_shortage(problem)
    return b"".join(pieces)


def is_file(name: str, folder: int, *, inode: int, size: int) -> bool:
    """Return whether a file is still the one that it was, with all that was written to it."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as problem:
        return problem.errno not in (errno.ENOENT, errno.ENOTDIR)  # it cannot be told now
    return found.st_ino == inode and found.st_size >= size


def name_of(inode: int, folder: int, likely: str) -> str | None:
    """Return what a file is called in an open directory; None if it is not there. It may have been renamed."""
    for name in (likely, *names_in(folder)):
        with contextlib.suppress(OSError):
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino == inode:
                return name
    return None


def append(fd: int, data: bytes) -> tuple[int, str]:
    """Append `data`. Return how many bytes were written, and why not all.

    A full disk first writes a part, and only then says so.
    """
    written = 0
    view = memoryview(data)
    try:
        while written < len(data):
            written += os.write(fd, view[written:])
    except OSError as problem:
        return written, os.strerror(problem.errno or 0)
    return written, ""


def is_directory_at(path: str | os.PathLike[str], fd: int, root: int | None = None) -> bool:
    """Return whether `path` still leads to the open directory `fd`: it may have been moved, or another put over it."""
    try:
        return os.path.samestat(os.stat(path, dir_fd=root, follow_symlinks=False), os.fstat(fd))
    except OSError:
        return False


def replace(name: str, folder: int, data: bytes, *, sync: bool = True) -> None:
    """Give a file other contents, all or nothing; with `sync` also if power is lost. Raise OSError."""
    new = f"{_NEW}{secrets.token_hex(8)}"
    fd = create(new, folder)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if sync:
            os.fdatasync(fd)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(new, dir_fd=folder)
        raise
    finally:
        os.close(fd)


def touch(path: str | os.PathLike[str], folder: int | None = None) -> None:
    """Give a file, which is made if it is missing, the time that it is now. Raise OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | _SAFE, 0o600, dir_fd=folder)
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def touched_at(path: str | os.PathLike[str], folder: int | None = None) -> int:
    """Return when that was done last, in ns; 0 if never."""
    try:
        return os.stat(path, dir_fd=folder, follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def request_rotation(root: int) -> None:
    """Ask every living process to begin new files. Raise OSError."""
    touch(_ROTATE, root)


def rotation_requested_at(root: int) -> int:
    """Return when that was asked last, in ns; 0 if never."""
    return touched_at(_ROTATE, root)


def names_in(folder: int) -> list[str]:
    """Return what lies in an open directory, in order, but not what is being made. Raise OSError as `read_file`."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as problem:
        pass_on_shortage(problem)
        return []


def pass_on_shortage(problem: OSError) -> None:
    """Raise `problem` if it says nothing of the file that could not be opened or read."""
    if is_shortage(problem):
        raise problem


def lock(folder: int, name: str = LOCK) -> int | None:
    """Return a descriptor that holds the lock of a directory, or None: another process holds it, or it has gone.

    Raise OSError as `read_file`.
    """
    import fcntl  # here: see `HAS_LOCKS`

    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | _SAFE, 0o600, dir_fd=folder)
    except OSError as problem:
        pass_on_shortage(problem)
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # its last holder may have removed the directory meanwhile: then this is the lock of nothing
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def make_process_directory(root: int) -> tuple[str, int, int]:
    """Make a directory for this process. Return its name, a descriptor, and one that holds its lock. Raise OSError."""
    name = f"{os.getpid()}-{boot_id()[:8]}-{secrets.token_hex(8)}"
    os.mkdir(_NEW + name, 0o700, dir_fd=root)
    try:
        folder = open_inside(_NEW + name, root)
    except OSError:
        os.rmdir(_NEW + name, dir_fd=root)
        raise
    held = None
    try:
        if (held := lock(folder)) is None:
            raise OSError(errno.ENOLCK, "the journal's lock cannot be held")
        os.rename(_NEW + name, name, src_dir_fd=root, dst_dir_fd=root)
    except BaseException:
        clear(_NEW + name, folder, root)
        os.close(folder)
        if held is not None:
            os.close(held)
        raise
    return name, folder, held


def process_directories_in(root: int) -> Iterator[str]:
    """Yield the names of the directories of processes."""
    for name in names_in(root):
        if _PROCESS.fullmatch(name):
            yield name


def folders_in(root: int) -> Iterator[tuple[str, int]]:
    """Yield the journals in `root`, each with a descriptor of its directory, which the caller closes. Raise OSError as
    `read_file`.
    """
    for name in process_directories_in(root):
        try:
            folder = open_inside(name, root)
        except OSError as problem:  # gone meanwhile, or another user's
            pass_on_shortage(problem)
            continue
        yield name, folder


def clear(name: str, folder: int, root: int) -> None:
    """Remove a directory, its lock last. Never raises: what is left is found by the next process."""
    with contextlib.suppress(OSError):  # with what was being made when its process was killed
        for file in sorted(os.listdir(folder), key=LOCK.__eq__):
            with contextlib.suppress(OSError):  # the others may still go
                os.unlink(file, dir_fd=folder)
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=root)


def remove_stale(folder: int) -> None:
    """Remove what a process was making an hour ago when it was killed. Never raises."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if not name.startswith(_NEW):
                continue
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
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
    """Return which boot of the machine this is: with the process id it names a process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", "").strip()
    except OSError:
        return "0" * 32
