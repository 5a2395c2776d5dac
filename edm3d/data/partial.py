"""Where finished groups wait until all are there: the hidden folder `.NAME.part` beside NAME.

    settings.json       what the groups are built with; other settings are refused
    groups/GROUP/       a finished group: its shards, and summary.json with the checksum of each
    building-I-of-N/    what one process writes; a group's folder is renamed to groups/ as a whole
    staged/             the records under their final names, just before the folder gets its own

However a process ends, nothing in groups/ is torn. A group there is taken as it is while its
checksums hold and its rows of the manifest and the sizes and times of its files are as they were;
else it is built anew. Read next: `edm3d.data.records`, which fills and empties the folder.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import edm3d
from edm3d.data.cases import DATASET_FILE, SCHEMA_VERSION
from edm3d.data.manifest import Scan
from edm3d.data.shard_file import ShardSummary, disk_faults, sha256_of
from edm3d.data.shards import Group, RecordSettings, write_group
from edm3d.data.share import Share, held
from edm3d.errors import InputError

SETTINGS_FILE, SUMMARY_FILE, STAGING_FILE = "settings.json", "summary.json", "staging.json"
GROUPS, STAGED, OLD = "groups", "staged", "old"


def partial_folder(out: Path) -> Path:
    """The hidden folder in which the records `out` grow."""
    checked_name(out)
    return out.with_name(f".{out.name}.part")


def checked_name(out: Path) -> Path:
    """`out`; raises `InputError` where no finished folder could take its name: `/`, a dead link."""
    if out.name in ("", ".."):
        raise InputError(f"--out is {out}, which has no name of its own; name a folder in it")
    if out.is_symlink() and not out.exists():
        raise InputError(f"--out is {out}, a link to nothing; remove it or name another folder")
    return out


def building_folder(folder: Path, share: Share) -> Path:
    """Where the process of `share` writes what is not finished."""
    return folder / f"building-{share.name}"


# Opening and locking.


@contextlib.contextmanager
def opened(folder: Path, settings: RecordSettings, share: Share, restart: bool) -> Iterator[None]:
    """Makes or takes up the partial folder and holds this share of it, and the whole if it is 1/1.

    The kernel lets go however the process ends. What a killed process left half done is removed.

    Raises:
        InputError: another process is at work there, or it was begun with other settings.
    """
    _make(folder)
    with held(folder, share):
        if restart:
            _forget_groups(folder)
        _agree_on_settings(folder / SETTINGS_FILE, settings)
        if share.of == 1:
            _unstage(folder)
            for left in folder.glob("building-*"):
                shutil.rmtree(left)
        building = building_folder(folder, share)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        (folder / GROUPS).mkdir(exist_ok=True)
        try:
            yield
        finally:
            shutil.rmtree(building, ignore_errors=True)
            if share.of == 1 and folder.is_dir() and not any((folder / GROUPS).iterdir()):
                shutil.rmtree(folder)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fault = f"{folder.parent} cannot be written to ({error.strerror})"
        raise InputError(f"{fault}; change --out") from error


def _forget_groups(folder: Path) -> None:
    for name in (GROUPS, STAGED):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (STAGING_FILE, SETTINGS_FILE):
        (folder / name).unlink(missing_ok=True)


def _recipe(settings: RecordSettings) -> dict[str, Any]:
    """All that decides the bytes beside the scans, as plain JSON values."""
    versions = {"schema_version": SCHEMA_VERSION, "edm3d_version": edm3d.__version__}
    return json.loads(json.dumps({**versions, **dataclasses.asdict(settings)}))


def _agree_on_settings(path: Path, settings: RecordSettings) -> None:
    now = _recipe(settings)
    if not path.exists():
        _write_whole(path, json.dumps(now, indent=2, sort_keys=True) + "\n")
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); pass --restart to build anew") from error
    differing = sorted(key for key in {*begun, *now} if begun.get(key) != now.get(key))
    if differing:
        told = ", ".join(f"{key} {begun.get(key)} (now {now.get(key)})" for key in differing)
        raise InputError(
            f"{path.parent} was begun with {told}; give the same settings to go on, or pass "
            "--restart to build all anew"
        )


def _write_whole(path: Path, text: str) -> None:
    """Writes `text` so that `path` never holds a part of it, whichever machines write at once."""
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}")
    with disk_faults(path):
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


# One group.


def _state_of(path: Path) -> list[Any]:
    """The path with size and time of change of the file, or of all files of a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    return [str(path), *((p.name, s.st_size, s.st_mtime_ns) for p, s in stats)]


def _described(scan: Scan) -> dict[str, Any]:
    """The scan's row and the state of its files; the row's number does not matter."""
    values = {f.name: getattr(scan, f.name) for f in dataclasses.fields(scan) if f.name != "row"}
    values["ventilation"] = dataclasses.asdict(scan.ventilation)
    return {k: _state_of(v) if isinstance(v, Path) else v for k, v in values.items()}


def fingerprint(group: Group, settings: RecordSettings) -> str:
    """A hash of all that decides the bytes of a group's shards."""
    inputs = {"recipe": _recipe(settings), "scans": [_described(scan) for scan in group.scans]}
    return _digest(inputs)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_summary(path: Path) -> dict[str, Any]:
    """The content of a summary, empty where there is none or its checksum fails."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return summary["content"] if summary["sha256"] == _digest(summary["content"]) else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _is_intact(place: Path, shard: ShardSummary) -> bool:
    path = place / shard.name
    whole = path.is_file() and path.stat().st_size == shard.size_bytes
    return whole and sha256_of(path) == shard.sha256


def _named_finally(shards: Sequence[ShardSummary], group: Group) -> list[ShardSummary]:
    return [dataclasses.replace(s, name=group.shard_of_split[s.split]) for s in shards]


def finished_group(
    group: Group, settings: RecordSettings, folder: Path
) -> list[ShardSummary] | None:
    """The shards of a group that is finished and still holds, under their final names."""
    place = folder / GROUPS / group.name
    content = _read_summary(place / SUMMARY_FILE)
    if not content or content["fingerprint"] != fingerprint(group, settings):
        return None
    shards = [ShardSummary.from_plain(fields) for fields in content["shards"]]
    return _named_finally(shards, group) if all(_is_intact(place, s) for s in shards) else None


def build_group(
    group: Group, settings: RecordSettings, folder: Path, share: Share
) -> list[ShardSummary]:
    """The shards of a group, written unless they are there already."""
    found = finished_group(group, settings, folder)
    if found is not None:
        return found
    before = fingerprint(group, settings)
    own = Path(tempfile.mkdtemp(prefix=f"{group.name}.", dir=building_folder(folder, share)))
    try:
        shards = write_group(group, settings, own)
        if fingerprint(group, settings) != before:
            raise InputError(
                f"files of group {group.name} changed while they were read; run the command again"
            )
        content = {"fingerprint": before, "shards": [dataclasses.asdict(s) for s in shards]}
        sealed = {"content": content, "sha256": _digest(content)}
        _write_whole(own / SUMMARY_FILE, json.dumps(sealed, indent=2) + "\n")
        place = folder / GROUPS / group.name
        shutil.rmtree(place, ignore_errors=True)
        os.replace(own, place)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return _named_finally(shards, group)


# From groups to records.


def _unstage(folder: Path) -> None:
    """Takes back the moves of a process that was killed while it gave shards their final names."""
    staging = folder / STAGING_FILE
    if staging.exists():
        mend = "pass --restart to build anew"
        for name, source in read_moves(staging, mend).items():
            if (folder / STAGED / name).exists():
                os.replace(folder / STAGED / name, folder / source)
        shutil.rmtree(folder / STAGED, ignore_errors=True)
        staging.unlink()


def read_moves(path: Path, mend: str) -> dict[str, str]:
    """The moves of a killed process: where each file came from; `InputError` with the mend."""
    try:
        moves = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); {mend}") from error
    plain = isinstance(moves, dict) and all(isinstance(source, str) for source in moves.values())
    if not plain:
        raise InputError(f"{path} is damaged (no table of moves); {mend}")
    return moves


def move_into_place(folder: Path, groups: Sequence[Group], info_json: str, out: Path) -> None:
    """Makes the finished groups the records `out`; older ones are removed once these stand."""
    moves = {
        name: f"{GROUPS}/{group.name}/{split}.array_record"
        for group in groups
        for split, name in group.shard_of_split.items()
    }
    _write_whole(folder / STAGING_FILE, json.dumps(moves))
    staged = folder / STAGED
    staged.mkdir()
    for name, source in moves.items():
        os.replace(folder / source, staged / name)
    _write_whole(staged / DATASET_FILE, info_json)
    if out.exists():
        shutil.rmtree(folder / OLD, ignore_errors=True)
        os.replace(out, folder / OLD)
    os.replace(staged, out)
    shutil.rmtree(folder)
