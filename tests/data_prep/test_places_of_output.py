"""Places where no folder can be made, and damaged notes of a killed process: a clear line each."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import whole_folder
from data_prep.import_dicom import import_tree
from data_prep.make_virtual_cohort import make_cohort
from data_prep.virtual_pig.settings import PRESETS
from edm3d.data import partial
from edm3d.data.manifest import read_manifest
from edm3d.data.records import write_records, write_share
from edm3d.data.share import Share
from edm3d.errors import InputError
from tests.configurations import ROOT
from tests.data.dicom_phantoms import write_series
from tests.data.phantoms import settings, write_cohort

DAMAGED = {
    "empty": "",
    "torn": '{"pig001_s01.nii.gz": "ser',
    "a list": "[1]",
    "numbers": '{"a": 1}',
}


def loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "pool")
    (folder / "pool").symlink_to(folder / "loop")
    return folder / "loop"


def line_of(name: str, *arguments: object) -> str:
    """The one line in which a command ends with exit code 2."""
    command = [sys.executable, str(ROOT / "data_prep" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    return line


def test_the_import_command_names_a_place_where_no_folder_can_be_made(tmp_path):
    write_series(tmp_path / "tree")
    told = line_of("import_dicom.py", "--root", tmp_path / "tree", "--out", "/")
    assert told == "error: --out is /, which has no name of its own; name a folder in it"
    told = line_of("import_dicom.py", "--root", tmp_path / "tree", "--out", loop(tmp_path))
    assert told.startswith(
        f"error: --out is {tmp_path / 'loop'}, a symbolic link in a loop; remove"
    )


def test_the_cohort_command_names_a_place_where_no_folder_can_be_made(tmp_path):
    small = PRESETS["small"]
    with pytest.raises(InputError, match="--out is /, which has no name"):
        make_cohort(Path("/"), small, workers=1)
    with pytest.raises(InputError, match="loop, a symbolic link in a loop"):
        make_cohort(loop(tmp_path), small, workers=1)
    assert "no name of its own" in line_of("make_virtual_cohort.py", "--out=/", "--preset=small")


def test_records_name_a_place_where_no_folder_can_be_made_before_any_is_built(tmp_path):
    scans = read_manifest(write_cohort(tmp_path, {"p": "train"}))
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    for out in (loop(tmp_path), tmp_path / "dead"):
        for build in (
            lambda out=out: write_records(scans, out, settings(), seed=0),
            lambda out=out: write_share(scans, out, settings(), Share(1, 2)),
        ):
            with pytest.raises(InputError, match=f"--out is {out}, a link to nothing; remove it"):
                build()
    assert not list(tmp_path.glob(".*.part"))
    with pytest.raises(InputError, match="--out is /, which has no name"):
        partial.partial_folder(Path("/"))
    common = ("--manifest=m.csv", "--shard=1/2", "--restart")
    assert "no name of its own" in line_of("build_records.py", "--out=/", *common)


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_moves_of_an_import_are_told_with_their_mend_and_nothing_is_lost(tmp_path, what):
    write_series(tmp_path / "tree")
    part = tmp_path / ".out.part"
    (part / "series" / "finished").mkdir(parents=True)
    (part / whole_folder.MOVES).write_text(DAMAGED[what])
    with pytest.raises(InputError) as caught:
        import_tree(tmp_path / "tree", tmp_path / "out")
    told = str(caught.value)
    assert re.fullmatch(rf"{part}/moves.json is damaged \(.*\); remove {part} to begin anew", told)
    assert (part / "series" / "finished").is_dir()


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_moves_of_records_are_told_with_their_mend(tmp_path, what):
    scans = read_manifest(write_cohort(tmp_path, {"p": "train"}))
    part = tmp_path / ".out.part"
    part.mkdir()
    (part / partial.STAGING_FILE).write_text(DAMAGED[what])
    with pytest.raises(InputError, match=r"staging.json is damaged \(.*\); pass --restart to bu"):
        write_records(scans, tmp_path / "out", settings(), seed=0)
    write_records(scans, tmp_path / "out", settings(), seed=0, restart=True)


def test_moves_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace

    def noting_fsync(descriptor):
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        order.append(("fsync", path.name, json.loads(path.read_text())))

    def noting_replace(source, target):
        order.append(("replace", Path(source).name, Path(target).name))
        replace(source, target)

    (tmp_path / "part" / "parts").mkdir(parents=True)
    (tmp_path / "part" / "parts" / "a").touch()
    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    moves = {"b": "parts/a"}
    whole_folder.hand_over(tmp_path / "part", moves, tmp_path / "out", lambda _: None)
    assert order[:2] == [
        ("fsync", ".moves.json", moves),
        ("replace", ".moves.json", "moves.json"),
    ]
