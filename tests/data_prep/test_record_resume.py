"""Building records, interrupted and divided in any way: the same bytes, or one clear line."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edm3d.data.manifest import read_manifest
from edm3d.data.partial import GROUPS, opened, partial_folder
from edm3d.data.records import merge_records, write_records, write_share
from edm3d.data.shards import write_group
from edm3d.data.share import Share
from edm3d.data.volumes import read_grid
from edm3d.errors import InputError
from tests.data.phantoms import axial_grid, chest, settings, write_cohort, write_nifti
from tests.data_prep.test_build_records import CONFIG, REPOSITORY

KILLS = 5  # by hand twenty: python -m tests.data_prep.test_record_resume 20
GROUPS_KILLED = 24
SUBJECTS = {"p": "train", "q": "train", "r": "val", "s": "test"}
# Ends without any clean-up at the n-th rename, as a kill there would.
DIE_AT_A_RENAME = """
import os, sys
from edm3d.data.manifest import read_manifest
from edm3d.data.records import write_records
from tests.data.phantoms import settings

left, replace = int(sys.argv[3]), os.replace

def counted(source, target):
    global left
    left -= 1
    os._exit(9) if left == 0 else replace(source, target)

os.replace = counted
write_records(read_manifest(sys.argv[1]), sys.argv[2], settings(), seed=0, overwrite=True)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), SUBJECTS)


@pytest.fixture(scope="module")
def undisturbed(cohort):
    write_records(read_manifest(cohort), cohort.parent / "undisturbed", settings(), seed=0)
    return contents(cohort.parent / "undisturbed")


@pytest.fixture
def groups_written(monkeypatch):
    """The names of the groups that are really written, in order."""
    names = []

    def noting(group, *rest):
        names.append(group.name.split("__")[0])
        return write_group(group, *rest)

    monkeypatch.setattr("edm3d.data.partial.write_group", noting)
    return names


def start(manifest: Path, out: Path, *more: str) -> subprocess.Popen:
    """The command in a process group of its own."""
    config = manifest.with_name("config.py")
    config.write_text(CONFIG)
    script = str(REPOSITORY / "data_prep" / "build_records.py")
    flags = [f"--manifest={manifest}", f"--out={out}", f"--config={config}", *more]
    return subprocess.Popen(
        [sys.executable, script, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )


def finished_groups(out: Path) -> int:
    return len(list((partial_folder(out) / GROUPS).glob("*")))


def build_with_kills(manifest: Path, out: Path, kills: int, longest_s: float) -> list[int]:
    """Builds `out`, killing the process group `kills` times; the groups finished at each kill."""
    rng, finished = random.Random(1), []
    while len(finished) < kills:
        process = start(manifest, out, "--workers=2", "--overwrite")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.3, 1.0) * longest_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            finished.append(finished_groups(out))
        process.communicate()
    last = start(manifest, out, "--workers=2", "--overwrite")
    _, told = last.communicate(timeout=120)
    assert last.returncode == 0, told
    return finished


def survives(folder: Path, kills: int) -> list[int]:
    """Asserts that a build with kills gives an undisturbed one's bytes; see `build_with_kills`."""
    manifest = write_cohort(folder, {f"p{i:02d}": "" for i in range(GROUPS_KILLED)}, (32, 44, 48))
    begin = time.monotonic()
    process = start(manifest, folder / "undisturbed", "--workers=2")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    finished = build_with_kills(manifest, folder / "out", kills, time.monotonic() - begin)
    assert contents(folder / "out") == contents(folder / "undisturbed")
    assert not hidden(folder)
    return finished


def test_records_are_the_same_bytes_after_random_kills(tmp_path):
    finished = survives(tmp_path, KILLS)
    assert any(0 < n < GROUPS_KILLED for n in finished), finished  # else no kill struck midway


def test_a_kill_at_any_rename_leaves_what_the_next_run_completes(tmp_path):
    manifest = write_cohort(tmp_path, {"p": "train", "q": "test"})
    scans = read_manifest(manifest)
    write_records(scans, tmp_path / "undisturbed", settings(), seed=0)
    older, out = scans[:3], tmp_path / "out"
    for rename in itertools.count(1):
        write_records(older, out, settings(), seed=3, overwrite=True)
        arguments = [sys.executable, "-c", DIE_AT_A_RENAME, manifest, out, str(rename)]
        died = subprocess.run(arguments, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."})
        write_records(scans, out, settings(), seed=0, overwrite=True)
        assert contents(out) == contents(tmp_path / "undisturbed")
        assert not hidden(tmp_path)
        if died.returncode == 0:
            break
        assert died.returncode == 9
    # Settings, twice summary and group, staging, two shards, dataset, old, new; then none is left.
    assert rename == 11 + 1


@pytest.mark.parametrize("of", [1, 2, 3, 9])
def test_any_number_of_shares_merges_to_the_same_bytes(cohort, undisturbed, tmp_path, of):
    scans, out = read_manifest(cohort), tmp_path / "out"
    for number in range(of, 0, -1):
        write_share(scans, out, settings(), Share(number, of))
    merge_records(scans, out, settings(), seed=0)
    assert contents(out) == undisturbed and not hidden(tmp_path)


def test_a_merge_names_what_is_not_built_and_keeps_what_is(cohort, undisturbed, tmp_path):
    scans, out = read_manifest(cohort), tmp_path / "out"
    write_share(scans, out, settings(), Share(1, 2))
    with pytest.raises(InputError, match=r"2 of 4 groups are not built .*\(q__early.*, s__early"):
        merge_records(scans, out, settings(), seed=0)
    assert not out.exists()
    write_share(scans, out, settings(), Share(2, 2))
    merge_records(scans, out, settings(), seed=0)
    assert contents(out) == undisturbed


def test_finished_groups_are_not_built_again_and_a_torn_one_is(
    cohort, undisturbed, tmp_path, groups_written
):
    scans, out = read_manifest(cohort), tmp_path / "out"
    write_share(scans, out, settings(), Share(1, 1))
    assert groups_written == ["p", "q", "r", "s"]
    shard = partial_folder(out) / GROUPS / "q__early__supine" / "train.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # one bit, the size is right
    summary = partial_folder(out) / GROUPS / "s__early__supine" / "summary.json"
    summary.write_text(summary.read_text()[:-40])
    summary = partial_folder(out) / GROUPS / "r__early__supine" / "summary.json"
    summary.write_text(summary.read_text().replace('"cases": 6', '"cases": 7'))
    write_records(scans, out, settings(), seed=0)
    assert groups_written[4:] == ["q", "r", "s"]
    assert contents(out) == undisturbed


def test_faults_come_together_and_only_their_groups_wait_for_the_mend(tmp_path, groups_written):
    manifest = write_cohort(tmp_path, SUBJECTS)
    scans, out = read_manifest(manifest), tmp_path / "out"
    write_records(scans, tmp_path / "undisturbed", settings(), seed=0)
    groups_written.clear()
    good = {}
    for scan in (scans[1], scans[4]):
        good[scan.ct], grid = scan.ct.read_bytes(), read_grid(scan.ct)
        write_nifti(scan.ct, np.full(grid.shape_zyx, np.nan, np.float32), grid)
    with pytest.raises(InputError) as caught:
        write_records(scans, out, settings(), seed=0)
    lines = str(caught.value).splitlines()
    assert [scans[1].ct.name in lines[0], scans[4].ct.name in lines[1]] == [True, True]
    assert "2 of 4 groups are finished" in lines[2] and len(lines) == 3 and not out.exists()
    for path, content in good.items():
        path.write_bytes(content)
    groups_written.clear()
    write_records(scans, out, settings(), seed=0)
    assert groups_written == ["p", "q"]
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_changed_scan_or_row_builds_its_group_anew_and_no_other(tmp_path, groups_written):
    manifest = write_cohort(tmp_path, SUBJECTS)
    write_share(read_manifest(manifest), tmp_path / "out", settings(), Share(1, 1))
    groups_written.clear()
    scans = read_manifest(manifest)
    grid = axial_grid((20, 26, 30), origin=(5.0, -7.0, 100.0))
    write_nifti(scans[3].ct, chest((20, 26, 30), seed=99), grid)
    text = manifest.read_text().replace(
        "r,a,early,supine,expiration,3", "r,a,early,supine,expiration,4"
    )
    manifest.write_text(text)
    scans = read_manifest(manifest)
    write_records(scans, tmp_path / "out", settings(), seed=0)
    assert groups_written == ["q", "r"]
    write_records(scans, tmp_path / "undisturbed", settings(), seed=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_groups_that_left_the_manifest_leave_nothing_behind(cohort, tmp_path, groups_written):
    scans = read_manifest(cohort)
    write_share(scans, tmp_path / "out", settings(), Share())
    fewer = [scan for scan in scans if scan.subject != "q"]
    groups_written.clear()
    write_records(fewer, tmp_path / "out", settings(), seed=0)
    assert groups_written == []
    write_records(fewer, tmp_path / "undisturbed", settings(), seed=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    assert not hidden(tmp_path)


def test_parts_of_records_that_stand_are_refused_before_they_are_built(cohort, tmp_path):
    scans, out = read_manifest(cohort), tmp_path / "out"
    write_records(scans, out, settings(), seed=0)
    with pytest.raises(InputError, match="not empty"):
        write_share(scans, out, settings(), Share(1, 2))
    write_share(scans, out, settings(), Share(1, 1), overwrite=True)
    merge_records(scans, out, settings(), seed=0, overwrite=True)


def test_other_settings_are_refused_until_told_to_begin_anew(cohort, tmp_path, groups_written):
    scans, out = read_manifest(cohort), tmp_path / "out"
    write_share(scans, out, settings(), Share(1, 2))
    with pytest.raises(InputError, match=r"begun with block 160 \(now 12\); .* --restart"):
        write_records(scans, out, settings(block=12), seed=0)
    groups_written.clear()
    write_records(scans, out, settings(block=12), seed=0, restart=True)
    assert groups_written == ["p", "q", "r", "s"]


@pytest.mark.parametrize("share", [Share(1, 1), Share(1, 2), Share(1, 3)])
def test_a_part_that_is_being_built_is_refused_to_others(cohort, tmp_path, share):
    scans, out = read_manifest(cohort), tmp_path / "out"
    with opened(partial_folder(out), settings(), Share(1, 2), restart=False):
        with pytest.raises(InputError, match=r"in use by another build_records.py \(part 1/2"):
            write_share(scans, out, settings(), share)
        write_share(scans, out, settings(), Share(2, 2))


def test_a_second_command_for_the_same_records_ends_with_one_clear_line(cohort, tmp_path):
    out = tmp_path / "out"
    with opened(partial_folder(out), settings(), Share(), restart=False):
        process = start(cohort, out, "--workers=1")
        _, told = process.communicate(timeout=60)
    lines = [line for line in told.splitlines() if "error: " in line]
    assert process.returncode == 2 and len(lines) == 1 and "in use by another" in lines[0]


def children_of(process: subprocess.Popen) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_end_with_the_command_that_began_them(tmp_path):
    manifest = write_cohort(tmp_path, {f"p{i:02d}": "" for i in range(GROUPS_KILLED)}, (32, 44, 48))
    process = start(manifest, tmp_path / "out", "--workers=2")
    while finished_groups(tmp_path / "out") < 2 and process.poll() is None:
        time.sleep(0.02)
    workers = children_of(process)
    assert len(workers) >= 2
    os.kill(process.pid, signal.SIGKILL)  # the command alone
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    alive = [pid for pid in workers if is_running(pid)]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not alive


@pytest.mark.parametrize(
    "flags, mend",
    [
        (["--shard=0/4"], "from 1 to n"),
        (["--shard=5/4"], "from 1 to n"),
        (["--shard=2"], "give i/n"),
        (["--shard=a/b"], "give i/n"),
        (["--shard=1/2", "--merge"], "build the parts, then merge"),
        (["--merge"], "build its parts first"),
        (["--shard=1/2", "--restart"], "would undo other parts"),
    ],
)
def test_wrong_parts_end_the_command_with_one_clear_line(cohort, tmp_path, flags, mend):
    process = start(cohort, tmp_path / "out", "--workers=1", *flags)
    _, told = process.communicate(timeout=60)
    lines = [line for line in told.splitlines() if "error: " in line]
    assert process.returncode == 2 and len(lines) == 1 and mend in lines[0]
    assert "Traceback" not in told and not list(tmp_path.iterdir())


def test_the_command_builds_in_parts_and_merges(tmp_path):
    manifest = write_cohort(tmp_path, {name: "" for name in "pqrs"})
    for flags in (["--shard=1/2"], ["--shard=2/2"], ["--merge"]):
        process = start(manifest, tmp_path / "out", "--workers=1", *flags)
        told, fault = process.communicate(timeout=60)
        assert process.returncode == 0, fault
    assert "train: 2 subjects, 12 pairs" in told
    assert (
        json.loads((tmp_path / "out" / "dataset.json").read_text())["counts"]["val"]["cases"] == 6
    )


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        print("groups finished at each kill:", survives(Path(name), int(sys.argv[1])))
