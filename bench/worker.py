"""One recorder and one workload, in a process of their own: a round for each line that is read, its figures as JSON."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import logging
import os
import sys
import time
from typing import Any

from bench.recorders import RECORDERS, Recorder
from bench.workloads import WORKLOADS

_WARM = 0.1  # of a round, twice


async def _round(recorder: Recorder, workload: str, calls: int, first: int) -> dict[str, Any]:
    """Wall time of the calls, with whatever the recorder does meanwhile; CPU of all threads until all has left."""
    run = WORKLOADS[workload].prepare(calls, first)

    def config(number: int, **more: Any) -> dict[str, Any]:
        ids = {"session_id": f"s{number}", "user_id": f"u{number % 97}"}
        told = {"metadata": ids, **more}
        return told if recorder.callbacks is None else {**told, "callbacks": recorder.callbacks}

    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await run(config)
    wall = time.perf_counter() - wall
    await recorder.drain()
    cpu = time.process_time() - cpu
    return {"wall": wall / calls, "cpu": cpu / calls, "calls": calls, "delivered": await recorder.delivered()}


async def main(name: str, workload: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever others print
    logging.basicConfig(level=logging.ERROR)
    recorder = await asyncio.to_thread(RECORDERS[name])
    made, calls = 0, WORKLOADS[workload].calls
    for _ in range(2):
        few = max(10, int(calls * _WARM))
        await _round(recorder, workload, few, made)
        made += few
    versions = {package: importlib.metadata.version(package) for package in ("langchain-core", *recorder.packages)}
    answers.write(json.dumps(versions) + "\n")
    while (await asyncio.to_thread(sys.stdin.readline)).strip():
        answers.write(json.dumps(await _round(recorder, workload, calls, made)) + "\n")
        made += calls
    await asyncio.to_thread(recorder.close)
    answers.flush()
    os._exit(0)  # what others do at exit is not waited for


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
