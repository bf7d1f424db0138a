"""A real Prometheus. `make install-prometheus` unpacks Debian's; where it cannot be had, the tests are left out."""

from __future__ import annotations

from tests.kit.absent import PROMETHEUS

collect_ignore_glob = [] if PROMETHEUS else ["test_*.py"]
