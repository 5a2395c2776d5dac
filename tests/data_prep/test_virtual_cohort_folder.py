"""The output folder: never half made, resumed after a kill, refused where it is something else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_cohort import SCRIPT, SMALL, SMALL_FLAGS, files, table

from data_prep import cohort_folder, make_virtual_cohort
from data_prep.cohort_folder import unfinished_folder
from data_prep.virtual_pig.design import most_scans
from data_prep.virtual_pig.progress import Progress
from edm3d.errors import InputError


@pytest.mark.parametrize(
    "bad",
    [
        {"pigs": 2},
        {"spacing_mm": -1.0},
        {"spacing_mm": 0.0},
        {"spacing_mm": 30.0},
        {"spacing_mm": float("nan")},
        {"seed": -1},
        {"scans_per_pig": 5},
        {"scans_per_pig": most_scans() + 1},
        {"dose": -1.0},
        {"dose": float("inf")},
        {"peep_cmh2o": (3, -8)},
        {"peep_cmh2o": (3, 3)},
        {"peep_cmh2o": ()},
        {"peep_cmh2o": (3, 8, 10, 13)},  # 6 scans are too few for 4 levels
        {"workers": 0},
    ],
)
def test_unusable_numbers_are_refused_before_anything_is_written(bad, tmp_path):
    bad = dict(bad)
    workers = bad.pop("workers", 1)
    with pytest.raises(InputError, match=r"; use .*\Z"):
        make_virtual_cohort.make_cohort(tmp_path / "out", SMALL.changed(**bad), workers=workers)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        make_virtual_cohort.make_cohort(tmp_path, SMALL, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_finished_cohort_is_neither_remade_nor_mixed_with_another(cohort, monkeypatch):
    monkeypatch.setattr(make_virtual_cohort, "_run", None)  # nothing may be made
    before = files(cohort)
    left = unfinished_folder(cohort) / "notes"  # of a run killed just after the last rename
    left.mkdir(parents=True)
    assert make_virtual_cohort.make_cohort(cohort, SMALL, workers=1) == 18
    assert not left.parent.exists()
    for other, named in (
        ({"seed": 12}, "seed 11 instead of 12"),
        ({"spacing_mm": 7.0, "dose": 2.0}, "spacing_mm 8.0 instead of 7.0, dose 1.0 instead of 2"),
    ):
        with pytest.raises(InputError, match=named):
            make_virtual_cohort.make_cohort(cohort, SMALL.changed(**other), workers=1)
    assert files(cohort) == before


def test_a_cohort_of_another_generator_or_with_a_lost_file_is_refused(cohort, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cohort, copy)
    lost = table(copy / "scans.csv")[7]["ct"]
    (copy / lost).unlink()
    with pytest.raises(InputError, match=f"has lost {lost}"):
        make_virtual_cohort.make_cohort(copy, SMALL, workers=1)
    text = json.loads((copy / "cohort.json").read_text())
    text["settings"]["generator_version"] += 1
    (copy / "cohort.json").write_text(json.dumps(text))
    with pytest.raises(InputError, match="generator_version 4 instead of 3"):
        make_virtual_cohort.make_cohort(copy, SMALL, workers=1)
    (copy / "cohort.json").write_text("not json")
    with pytest.raises(InputError, match="is not a cohort's"):
        make_virtual_cohort.make_cohort(copy, SMALL, workers=1)


def test_an_empty_folder_is_filled_through_a_symlink(cohort, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert make_virtual_cohort.make_cohort(tmp_path / "link", SMALL, workers=1) == 18
    assert (tmp_path / "link").is_symlink()
    assert files(tmp_path / "disk") == files(cohort)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link"]


def test_the_empty_working_folder_is_filled(cohort, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    made = subprocess.run(command(Path("."), "--workers=2"), cwd=here, env=environment)
    assert made.returncode == 0
    assert files(here) == files(cohort)


def test_a_folder_that_cannot_be_replaced_is_refused_before_any_work(tmp_path, monkeypatch):
    def busy(old, new):
        raise OSError(16, "Device or resource busy")

    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(make_virtual_cohort, "_run", None)  # nothing may be made
    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(InputError, match=r"cannot be replaced .Device or resource busy."):
        make_virtual_cohort.make_cohort(tmp_path / "disk", SMALL, workers=1)


def test_a_failure_gives_no_cohort_and_other_settings_do_not_go_on_with_it(tmp_path, monkeypatch):
    def fail(jobs, workers):
        jobs[0].progress.write_text("half", "made")
        raise RuntimeError("a fault")

    monkeypatch.setattr(make_virtual_cohort, "_run", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        make_virtual_cohort.make_cohort(tmp_path / "out", SMALL, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == [".out.unfinished"]
    with pytest.raises(InputError, match="unfinished cohort with seed 11 instead of 3"):
        make_virtual_cohort.make_cohort(tmp_path / "out", SMALL.changed(seed=3), workers=1)


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, str(SCRIPT), f"--out={out}", *SMALL_FLAGS, *more]


def notes(out: Path) -> int:
    return len(list((unfinished_folder(out) / "notes").glob("*.json")))


def scans_when(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while notes(out) < count:
        assert time.monotonic() < deadline, f"{notes(out)} scans after a minute"
        time.sleep(0.02)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(cohort, tmp_path):
    """Killed twice by SIGKILL in the middle; finished scans are kept, workers do not outlive it."""
    out = tmp_path / "cohort"
    kept: dict[str, int] = {}
    for until in (2, 8):
        with (tmp_path / "log").open("w") as log:
            run = subprocess.Popen(command(out, "--workers=1"), stdout=log, stderr=log)
        scans_when(out, until)
        children = own_children(run.pid)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        assert not out.exists()
        assert children and all(ends(child) for child in children)
        made = {p.name: p.stat().st_mtime_ns for p in finished(out)}
        assert kept.items() <= made.items()
        kept = made
        assert until <= notes(out) < 18
    (unfinished_folder(out) / "unfinished" / "pig001").mkdir(parents=True, exist_ok=True)
    (unfinished_folder(out) / "unfinished" / "pig001" / "half.nii.gz").write_bytes(b"half")
    run = subprocess.run(command(out, "--workers=2"), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "going on: " in run.stdout
    assert {p.name: p.stat().st_mtime_ns for p in out.rglob("*")}.items() >= kept.items()
    first, second = files(cohort), files(out)
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert not unfinished_folder(out).exists()


def finished(out: Path) -> list[Path]:
    """The files of scans that have their note."""
    scans = [p.stem for p in (unfinished_folder(out) / "notes").glob("*.json")]
    cohort = unfinished_folder(out) / "cohort"
    return [cohort / name[:6] / f"{name[7:]}.nii.gz" for name in scans]


def own_children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def ends(pid: int) -> bool:
    """Whether a process is gone, or dead and not yet fetched, within 10 s."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_two_runs_do_not_make_one_cohort_at_once(tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be there already
    with cohort_folder.grown(out, SMALL.as_json(), 0) as progress:
        with pytest.raises(InputError, match="another process"):
            make_virtual_cohort.make_cohort(out, SMALL, workers=1)
        progress.write_text("scans.csv", "whole")
    assert (out / "scans.csv").read_text() == "whole"


def test_notes_of_a_cohort_that_was_taken_away_are_not_believed(tmp_path):
    """A run killed after the last rename leaves notes; the user then moves the cohort elsewhere."""
    out = tmp_path / "out"
    left = Progress(unfinished_folder(out))
    left.begin()
    left.finish_scan("pig001", "a-scan", {"scan": {}})
    with cohort_folder.grown(out, SMALL.as_json(), 0) as progress:
        assert progress.note("pig001", "a-scan") is None


def test_a_disk_without_room_is_refused_before_work_begins(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"0\.01 GB free; the cohort needs about"):
        make_virtual_cohort.make_cohort(tmp_path / "out", SMALL.changed(pigs=99), workers=1)
    assert not list(tmp_path.iterdir())


def test_the_expected_size_is_about_the_real_one(cohort):
    size = sum(p.stat().st_size for p in cohort.rglob("*.nii.gz"))
    assert 0.5 < SMALL.expected_bytes(18) / size < 2


def test_a_disk_that_fills_ends_the_command_with_one_line(tmp_path):
    """A limit on file sizes fails in the midst of a write as a full disk does."""
    line = f"ulimit -f 20; exec {' '.join(command(tmp_path / 'out', '--workers=1'))}"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: [Errno 27] File too large")
    assert run.stderr.count("error") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            ["--pigs=2"],
            "--pigs is 2; use at least 3 (train, val and test need one each)",
        ),
        (["--preset=huge"], "flag --preset=huge: value should be one of <paper|small>"),
        (["--peep=3,x"], "--peep is 3,x; use whole numbers"),
        (["--out=/proc/none/out"], "--out is /proc/none/out, which cannot be made"),
    ],
)
def test_the_command_answers_bad_flags_with_one_line_and_exit_2(given, error, tmp_path):
    run = subprocess.run(
        [sys.executable, SCRIPT, f"--out={tmp_path / 'out'}", *given],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 2
    assert run.stderr.strip().startswith(f"error: {error}") and run.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
