"""Pools of threads and processes that a block left: their workers end with the block.

The state of a session goes on in a fork, which has one thread. A pool that was made before would
wait for its workers for ever. A pool of threads gets new ones, as it makes them when it is used; a
pool of processes, and `multiprocessing.pool.ThreadPool`, say what is wrong; and so does the result
of a call that was under way. Not covered: what waits for a thread by other means, such as a queue.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import sys
import threading
from typing import Any

__all__ = ["bury"]

_ENDED = "its threads and processes ended with the block that made it; make a new one"
_CALL_ENDED = "the call ended with the block that made it"
_LOCK_TIMEOUT_S = 0.01


def bury() -> None:
    """Repair what waits for threads that are no more; right after the fork."""
    futures = sys.modules.get("concurrent.futures._base")
    pools = sys.modules.get("multiprocessing.pool")
    if futures is None and pools is None:
        return
    threads = sys.modules.get("concurrent.futures.thread")
    processes = sys.modules.get("concurrent.futures.process")
    for item in gc.get_objects():
        with contextlib.suppress(Exception):  # the code may have made anything of them
            kind = type(item)
            if threads is not None and issubclass(kind, threads.ThreadPoolExecutor):
                _renew(item)
            elif processes is not None and issubclass(kind, processes.ProcessPoolExecutor):
                item._broken = _ENDED
            elif pools is not None and issubclass(kind, pools.Pool):
                item._state = pools.TERMINATE
                item._check_running = _refuse
            elif futures is not None and issubclass(kind, futures.Future):
                _end(item, RuntimeError(_CALL_ENDED))


def _refuse() -> None:
    raise ValueError(f"Pool not running: {_ENDED}")


def _renew(executor: Any) -> None:
    """Let an executor make threads again, for what waits in it as well."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with contextlib.suppress(queue.Empty):
        while True:
            item = executor._work_queue.get_nowait()
            if item is not None:
                waiting.put(item)
    executor._work_queue = waiting
    executor._threads = set()
    executor._idle_semaphore = threading.Semaphore(0)
    executor._shutdown_lock = threading.Lock()
    for _ in range(min(waiting.qsize(), executor._max_workers)):
        executor._adjust_thread_count()


def _end(future: Any, error: Exception) -> None:
    """End a call that runs in a thread that is no more; one that waits is still to come."""
    if future._state != "RUNNING" or not future._condition.acquire(timeout=_LOCK_TIMEOUT_S):
        return
    future._condition.release()
    future.set_exception(error)
