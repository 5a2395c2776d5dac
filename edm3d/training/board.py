"""TensorBoard's event files, written by the caller's own thread.

tensorboardX's `SummaryWriter` hands events to a thread, which a full disk ends without a word; the
run then waits for ever for room in its queue. Here the error reaches whoever writes.
"""

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

_proto: Any = event_pb2  # made at import, where no type checker sees it
Event, SessionLog = _proto.Event, _proto.SessionLog


class Board:
    """One event file in `folder`; events of `purge_step` and later of older files are hidden."""

    def __init__(self, folder: Path, *, purge_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._events, self._failed = EventsWriter(str(folder / "events")), False
        self._write(Event(step=purge_step, file_version="brain.Event:2"))
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()  # nothing may be left over that closing could not write

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._write(Event(step=step, summary=summary.scalar(name, value)))

    def add_image(self, name: str, rgb: np.ndarray, step: int) -> None:
        """Adds uint8 `[height, width, 3]`."""
        self._write(Event(step=step, summary=summary.image(name, rgb, dataformats="HWC")))

    def flush(self) -> None:
        """Brings to disk what was added; raises `OSError` where it does not fit."""
        try:
            self._events.flush()
        except OSError:
            self._failed = True
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError) if self._failed else contextlib.nullcontext():
            self._events.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        try:
            self._events.write_event(event)
        except OSError:
            self._failed = True
            raise
