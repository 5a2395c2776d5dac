"""The output folder of a cohort: whole or absent, resumed, never mixed with another cohort."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep import whole_folder
from data_prep.virtual_pig.progress import Progress
from edm3d.errors import InputError

SETTINGS_FILE = "cohort.json"


def is_complete(out: Path, settings: dict) -> bool:
    """Whether `out` is the finished cohort of `settings`; `InputError` where it is something else.

    A folder that is absent or empty is no cohort yet.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, a file; name a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if not (out / SETTINGS_FILE).is_file():
        raise InputError(f"--out is {out}, which is not empty; name a new folder or empty it")
    _check_same(out, out / SETTINGS_FILE, settings, f"--out is {out}, a cohort")
    _check_files(out)
    return True


def _check_same(folder: Path, path: Path, settings: dict, what: str) -> None:
    """Raises `InputError` naming every setting in which the cohort of `path` differs."""
    try:
        found = json.loads(path.read_text())["settings"]
        names = [*settings, *(name for name in found if name not in settings)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a cohort's; remove {folder} or name a new one") from error
    other = [
        f"{name} {found.get(name)} instead of {settings.get(name)}"
        for name in names
        if found.get(name) != settings.get(name)
    ]
    if other:
        raise InputError(f"{what} with {', '.join(other)}; name a new folder or remove {folder}")


def _check_files(out: Path) -> None:
    """Raises `InputError` on a finished cohort that has lost a file of its table."""
    lost = [name for name in ("scans.csv", "truth.csv") if not (out / name).is_file()]
    if not lost:
        with (out / "scans.csv").open(newline="") as file:
            names = [row[column] for row in csv.DictReader(file) for column in ("ct", "lung_mask")]
        lost = [name for name in names if not (out / name).is_file()]
    if lost:
        raise InputError(
            f"--out is {out}, a cohort that has lost {lost[0]}; remove it to start anew"
        )


@contextmanager
def grown(out: Path, settings: dict, needed_bytes: float) -> Iterator[Progress]:
    """The unfinished cohort beside `out`, begun or resumed; on success it takes the name `out`.

    `out` is a resolved path. After a failure it stays, and the same settings go on with it.
    """
    progress = Progress(unfinished_folder(out))
    _check_space(out, progress, needed_bytes)
    try:
        progress.folder.mkdir(parents=True, exist_ok=True)
        lock = (progress.folder / "lock").open("w")
    except OSError as error:
        raise InputError(f"--out is {out}, which cannot be made ({error.strerror})") from error
    with lock:
        whole_folder.lock(lock, progress.folder)
        _check_replaceable(out, progress.folder / "empty")
        _check_resumable(progress, settings)
        _begin(progress, settings)
        yield progress
        os.replace(progress.cohort, out)
        shutil.rmtree(progress.folder)


def unfinished_folder(out: Path) -> Path:
    """Where the cohort of `out` grows; on the same disk, so that it can be moved at once."""
    out = out.resolve()
    return out.parent / f".{out.name}.unfinished"


def _check_replaceable(out: Path, aside: Path) -> None:
    """Raises `InputError` before hours of work where the last rename would fail: a mount point.

    An empty `out` goes to `aside` and back; it may be the working folder, so it is not remade.
    """
    if not out.exists():
        return
    try:
        os.rename(out, aside)
        os.rename(aside, out)
    except OSError as error:
        raise InputError(
            f"--out is {out}, which cannot be replaced ({error.strerror}); name a new folder in it"
        ) from error


def _check_resumable(progress: Progress, settings: dict) -> None:
    path = progress.cohort / SETTINGS_FILE
    if path.exists():
        _check_same(progress.folder, path, settings, f"{progress.folder} is an unfinished cohort")


def _check_space(out: Path, progress: Progress, needed_bytes: float) -> None:
    """Raises `InputError` before hours of work that the disk cannot hold."""
    made = sum(p.stat().st_size for p in progress.folder.rglob("*") if p.is_file())
    disk = next(folder for folder in progress.folder.parents if folder.exists())
    (total, _, free), more = shutil.disk_usage(disk), needed_bytes - made
    if free < more and total:  # 0: no disk, such as /proc
        raise InputError(
            f"--out is {out}, on a disk with {free / 1e9:.2f} GB free; the cohort needs about"
            f" {more / 1e9:.2f} GB: free some or name another disk"
        )


def _begin(progress: Progress, settings: dict) -> None:
    if not (progress.cohort / SETTINGS_FILE).exists():
        progress.forget()  # a cohort that has been handed over leaves notes of files it took along
    progress.begin()
    progress.write_text(SETTINGS_FILE, json.dumps({"settings": settings}, indent=2) + "\n")


def forget_unfinished(out: Path) -> None:
    """Removes what a run left that was killed after its cohort had become whole."""
    shutil.rmtree(unfinished_folder(out), ignore_errors=True)
