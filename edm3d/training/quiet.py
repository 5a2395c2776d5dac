"""Keeps Orbax and TensorStore from printing pages about a failure that they also raise.

What is raised is told in one line by whoever asked; nothing is lost here.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any


def quiet_failures() -> None:
    """Silences Orbax's log, the tasks it abandons, and callbacks that come too late.

    Of several arrays read or written at once the first failure ends the event loop; the others
    then report to a loop that is closed, from threads of TensorStore.
    """
    logging.getLogger("absl").addFilter(_not_of_orbax)
    logging.getLogger("asyncio").addFilter(_not_of_abandoned_tasks)
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
    sys.excepthook = _but_for_late_callbacks(sys.excepthook, lambda args: args[1])
    sys.unraisablehook = _but_for_late_callbacks(sys.unraisablehook, lambda args: args[0].exc_value)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname


def _not_of_abandoned_tasks(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Task exception was never retrieved")


def _but_for_late_callbacks(hook: Callable, error_of: Callable[[tuple], Any]) -> Callable:
    def heard(*args: Any) -> None:
        error = error_of(args)
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            hook(*args)

    return heard
