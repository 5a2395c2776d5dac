"""A cohort that grows on disk, scan by scan, so that a killed run can go on where it stopped.

A file is written apart and moved to its place; a scan's note is moved last. What has a note is
whole, what has none is made again with the same bytes.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """The folder of an unfinished cohort: `cohort` is what will be handed over."""

    folder: Path

    @property
    def cohort(self) -> Path:
        return self.folder / "cohort"

    @property
    def _unfinished(self) -> Path:
        return self.folder / "unfinished"

    @property
    def _notes(self) -> Path:
        return self.folder / "notes"

    def forget(self) -> None:
        """Starts anew."""
        for folder in (self.cohort, self._notes):
            shutil.rmtree(folder, ignore_errors=True)

    def begin(self) -> None:
        """Makes the folders and throws away files that a killed run left half written."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        for folder in (self.cohort, self._unfinished, self._notes):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, store: Callable[[Path], object]) -> None:
        """`store(path)`s a file and moves it to `name` in the cohort."""
        self._place(self.cohort / name, name, store)

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file of the cohort."""
        self.write(name, lambda path: path.write_text(text))

    def note(self, subject: str, scan: str) -> dict | None:
        """What was noted of a scan that is whole; None where it has still to be made."""
        path = self._note_path(subject, scan)
        return json.loads(path.read_text()) if path.exists() else None

    def finish_scan(self, subject: str, scan: str, note: dict) -> None:
        """Notes that all files of a scan are in their places."""
        path, text = self._note_path(subject, scan), json.dumps(note)
        self._place(path, f"notes/{path.name}", lambda part: part.write_text(text))

    def _note_path(self, subject: str, scan: str) -> Path:
        return self._notes / f"{subject}-{scan}.json"

    def _place(self, path: Path, name: str, store: Callable[[Path], object]) -> None:
        # The name stays the same: gzip keeps it in the file.
        part = self._unfinished / name
        part.parent.mkdir(parents=True, exist_ok=True)
        store(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
