"""Work on many items in processes of one thread, which end with the process that began them."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from edm3d.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def usable_cores() -> int:
    """The cores that this process may use: fewer than the machine's in a job or container."""
    return len(os.sched_getaffinity(0))


def _die_with_parent() -> None:
    """Ends this worker when the process that started it is gone, killed perhaps."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start inside use one thread: they share the cores already."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def outcomes(task: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """What `task` gives for each item, as they are done; with one worker in this process.

    Raises `InputError` when a worker is killed.
    """
    if workers == 1:
        yield from map(task, items)
        return
    context = multiprocessing.get_context("spawn")
    with (
        _one_thread_each(),
        concurrent.futures.ProcessPoolExecutor(
            min(workers, max(len(items), 1)), mp_context=context, initializer=_begin_worker
        ) as pool,
    ):
        futures = [pool.submit(task, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            mend = "use fewer --workers"
            raise InputError(f"a worker was killed, perhaps for memory; {mend}") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
