"""Dividing groups between processes and machines, and keeping two of them off the same groups."""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edm3d.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Part `number` (from 1) of the `of` parts that processes divide the groups into."""

    number: int = 1
    of: int = 1

    def __post_init__(self):
        if not 1 <= self.number <= self.of:
            raise InputError(
                f"--shard is {self}; give i/n with i from 1 to n, for example --shard=1/8"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.of}"

    def part_of(self, items: Sequence[T]) -> list[T]:
        """This part of `items`: every n-th one."""
        return list(items[self.number - 1 :: self.of])


@contextlib.contextmanager
def held(folder: Path, share: Share) -> Iterator[None]:
    """Holds a share of the folder; `InputError` where another process is at work on its groups.

    The kernel lets go however the process ends.
    """
    with _locked(folder / f"{share.name}.lock", share, fcntl.LOCK_EX):
        # Shares of one division work side by side; those of another would share groups with it.
        for other in sorted(folder.glob("*-of-*.lock")):
            if not other.name.endswith(f"-of-{share.of}.lock"):
                # Shared: two siblings may look at a left-over file at once.
                with _locked(other, share, fcntl.LOCK_SH):
                    pass
        yield


@contextlib.contextmanager
def _locked(path: Path, share: Share, kind: int) -> Iterator[None]:
    with path.open("a+") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = path.stem.replace("-of-", "/")
            raise InputError(
                f"{path.parent} is in use by another build_records.py (part {other}, this is "
                f"{share}); wait for it to end, or choose another --out"
            ) from error
        yield
