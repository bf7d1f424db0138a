"""A wall clock that can be set while processes run, for them alone; their monotonic clock goes on.

A shim of a few lines stands before libc's functions, and adds what a file says; it needs a C compiler. (libfaketime
0.9.10 would do, but makes `time.sleep` of Python 3.11 fail with EINVAL.)
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

_SHIM: Final = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("STEPPED_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) offset = at;
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *ts) {
    int status = syscall(SYS_clock_gettime, id, ts);
    if (!status && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) ts->tv_sec += *offset;
    return status;
}

time_t time(time_t *out) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (out) *out = ts.tv_sec;
    return ts.tv_sec;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}
"""


class SteppedClock:
    """The clock of all processes that are begun with `environment`."""

    def __init__(self, folder: Path) -> None:
        """Build the shim in `folder`. Raise OSError where there is no C compiler, or no linker's preload."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise OSError("there is no C compiler")
        self._file = folder / "clock"
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(_SHIM)
        made = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", library, source], capture_output=True, text=True
        )
        if made.returncode:
            raise OSError(made.stderr)
        self._file.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Let it be so many seconds off, from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", seconds))
