"""Batches brought to the devices ahead of need by a thread of the host."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_POLL_S = 0.2  # how soon a stop is heard while data stalls
_PATIENCE_S = 2.0  # for readers to end; one that hangs is left behind
_END = object()


class Feed:
    """Takes from `batches`, puts each by `put` (NumPy in, device arrays out), `ahead` of need.

    `waited_s` is the time that `take` has spent without a batch at hand.
    """

    def __init__(self, batches: Iterator, put: Callable[[Any], Any], *, ahead: int = 2):
        self._batches, self._put = batches, put
        self._ready: queue.Queue = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self.waited_s = 0.0
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def take(self, stop_asked: Callable[[], bool] = lambda: False) -> Any | None:
        """The next batch, or None as soon as a stop is asked; raises what reading raised."""
        start = time.perf_counter()
        try:
            while not stop_asked():
                try:
                    item, error = self._ready.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if error is not None:
                    raise error
                if item is _END:
                    raise RuntimeError("the batches have come to an end")
                return item
            return None
        finally:
            self.waited_s += time.perf_counter() - start

    def close(self) -> None:
        """Ends the thread, but for one that hangs in reading, which dies with the process."""
        self._closed.set()
        while self._thread.is_alive() and not self._ready.empty():
            self._ready.get_nowait()
        self._thread.join(timeout=_PATIENCE_S)

    def _fill(self) -> None:
        try:
            for batch in self._batches:
                if not self._offer((self._put(batch), None)):
                    return
            self._offer((_END, None))
        except BaseException as error:
            self._offer((None, error))
        finally:
            if close := getattr(self._batches, "close", None):
                close()  # frees what worker processes share

    def _offer(self, item: tuple) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False
