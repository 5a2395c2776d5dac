"""A run's answer to SIGTERM and SIGINT: save and exit 0, within seconds, wherever it is.

Python runs signal handlers between its own instructions only, so one that waits for a compiler
hears nothing for minutes. While there is nothing to save, a thread that the operating system wakes
ends the process instead; the compilations of a run all lie in that time.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether a signal has asked for the end; made by `stop_on_signal`."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._idle: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def asked(self) -> bool:
        return self._asked.is_set()

    @contextlib.contextmanager
    def at_once(self, farewell: str, code: int = 0) -> Iterator[None]:
        """Within it nothing is worth saving: a signal prints `farewell`, exits `code` at once."""

        def leave() -> None:
            print(farewell, flush=True)
            os._exit(code)  # the main thread may be deep in a compiler

        with self._lock:
            self._idle = leave
        if self.asked():
            leave()
        try:
            yield
        finally:
            with self._lock:
                self._idle = None

    def _wake(self) -> None:
        with self._lock:
            if self._idle:
                self._idle()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Within it the first SIGTERM or SIGINT asks for the end, which the yielded `Stop` tells.

    The second one does what it would do without: it ends the process.
    """
    stop, (ear, mouth) = Stop(), os.pipe()
    os.set_blocking(mouth, False)

    def first(number: int, _: Any) -> None:
        stop._asked.set()
        for s, handler in old.items():
            signal.signal(s, handler)

    old = {s: signal.getsignal(s) for s in SIGNALS}
    old_mouth = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    for s in old:
        signal.signal(s, first)
    listener = threading.Thread(target=_listen, args=(ear, stop), daemon=True)
    listener.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(old_mouth)
        for s, handler in old.items():
            signal.signal(s, handler)
        os.close(mouth)  # ends the listener
        listener.join()
        os.close(ear)


def _listen(ear: int, stop: Stop) -> None:
    """Reads the numbers of signals, which the kernel's handler writes whatever Python does."""
    while received := os.read(ear, 1):
        if received[0] in SIGNALS:
            stop._wake()
