"""A profile of chosen updates, for TensorBoard's profile plugin, Perfetto or XProf."""

from pathlib import Path
from typing import Any

import jax

from edm3d.errors import InputError

FLAG = "--profile_steps"


def parse_steps(text: str | None) -> range | None:
    """The updates that `FIRST:END` means, the first update being 0; None for no text.

    Raises:
        InputError: the text is no such pair, or holds no update.
    """
    if text is None:
        return None
    first, colon, end = text.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise InputError(
            f"{FLAG} is {text!r}; give FIRST:END such as 100:103, which are updates 100 to 102"
        )
    return range(int(first), int(end))


def check_steps(steps: range | None, *, first: int, end: int) -> None:
    """Raises `InputError` unless a run from update `first` to `end` makes all of `steps`."""
    if steps and not first <= steps.start < steps.stop <= end:
        made = f"updates {first} to {end - 1}" if first < end else "no more updates"
        raise InputError(
            f"{FLAG} is {steps.start}:{steps.stop}, this run makes {made}; choose some of them"
        )


class Profile:
    """Records the updates `steps` into `folder`."""

    def __init__(self, folder: Path, steps: range | None):
        self._folder, self._steps, self._running = folder, steps, False

    def before(self, step: int) -> None:
        """Starts before update `step` if it is the first one asked for."""
        if self._steps and step == self._steps.start:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, measured: Any) -> None:
        """Ends when the last one asked for, which gave `measured`, is done on the devices."""
        if self._running and self._steps and step == self._steps[-1]:
            jax.block_until_ready(measured)
            self.close()

    def close(self) -> None:
        """Ends a profile under way."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            print(f"profile of updates written to {self._folder}", flush=True)
