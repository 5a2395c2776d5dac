"""How many damaged records a run leaves out before it ends."""

from collections.abc import Callable

import numpy as np

from edm3d.errors import DamagedRecord


class Damage:
    """Counts the damaged records that this process has met since it started.

    Attributes:
        records: damaged records, each counted once.
        examples: examples whose place another record took.
    """

    def __init__(self, allowed: int, fault_of: Callable[[int], str]):
        """`fault_of` names a damaged record by its number and says what is wrong with it."""
        self._allowed, self._fault_of = allowed, fault_of
        self._met: set[int] = set()
        self.examples = 0

    @property
    def records(self) -> int:
        return len(self._met)

    def counts(self) -> dict[str, int]:
        """Both counts by the names of a log."""
        return {"damaged_records": self.records, "replaced_examples": self.examples}

    def note(self, damaged: np.ndarray | None) -> None:
        """Takes the numbers `[b]` of a batch's damaged records, -1 where there is none.

        Raises:
            DamagedRecord: more records are damaged than allowed.
        """
        numbers = [] if damaged is None else damaged[damaged >= 0].tolist()
        self.examples += len(numbers)
        for number in numbers:
            if number not in self._met:
                self._met.add(number)
                self._tell(number)

    def _tell(self, number: int) -> None:
        fault, met = self._fault_of(number), f"{self.records} met, {self._allowed} allowed"
        if self.records > self._allowed:
            raise DamagedRecord(f"{fault} (damaged records: {met} by train.skip_bad_records)")
        print(f"left out, another takes its place: {fault} ({met})", flush=True)
