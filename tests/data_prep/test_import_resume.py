"""An import, killed at any time or shared by workers: the same bytes, and nothing done twice."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.dicom_import import convert
from data_prep.import_dicom import import_tree
from data_prep.whole_folder import growing
from edm3d.errors import InputError
from tests.configurations import ROOT
from tests.data.dicom_phantoms import SERIES_UID, SHAPE, write_series
from tests.data.phantoms import chest

KILLS = 5  # by hand twenty: python -m tests.data_prep.test_import_resume 20
SERIES_KILLED = 24
# Ends without any clean-up at the n-th rename, as a kill there would.
DIE_AT_A_RENAME = """
import os, sys
from pathlib import Path
from data_prep.import_dicom import import_tree

left, replace = int(sys.argv[3]), os.replace

def counted(source, target):
    global left
    left -= 1
    os._exit(9) if left == 0 else replace(source, target)

os.replace = counted
import_tree(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def write_tree(root: Path, count: int, shape: tuple[int, int, int] = SHAPE) -> Path:
    """`count` good series of three subjects, and one with a gap."""
    for number in range(count + 1):
        more = {0x00100020: ("LO", f"K{number % 3}"), 0x0020000E: ("UI", f"{SERIES_UID}.{number}")}
        gap = 5 if number == count else None
        write_series(
            root / f"{number:02d}",
            chest(shape, seed=number),
            lambda z, f, more=more, gap=gap: None if z == gap else f | more,
        )
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def part(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = write_tree(tmp_path_factory.mktemp("dicom") / "tree", 6)
    for name in ("03-damaged", "07-damaged"):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def undisturbed(tree):
    outcome = import_tree(tree, tree.parent / "undisturbed")
    assert (len(outcome.imported), len(outcome.refused)) == (6, 3)
    return contents(tree.parent / "undisturbed")


@pytest.fixture
def written(monkeypatch):
    """The folders of the series that are really converted, in order."""
    names = []

    def noting(group, *rest):
        names.append(convert.common_folder(group).name)
        return original(group, *rest)

    original = convert._write
    monkeypatch.setattr(convert, "_write", noting)
    return names


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    tree, undisturbed, tmp_path, workers, monkeypatch
):
    monkeypatch.setattr("data_prep.dicom_import.tree._FILES_AT_ONCE", 5)  # in the midst of a series
    import_tree(tree, tmp_path / "out", workers=workers)
    assert contents(tmp_path / "out") == undisturbed and not hidden(tmp_path)


def fill_the_disk(path, *_):
    raise OSError(28, "No space left on device", str(path))


def stop_after(written: list[str], series: int, monkeypatch) -> None:
    """Fills the disk once so many series are written."""
    original = convert.write_nifti
    monkeypatch.setattr(
        convert,
        "write_nifti",
        lambda *given: (fill_the_disk if len(written) > series else original)(*given),
    )


def test_finished_series_are_not_done_again_and_a_torn_one_is(
    tree, undisturbed, tmp_path, written, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_after(written, 4, patch)
        with pytest.raises(OSError, match="No space left"):
            import_tree(tree, tmp_path / "out")
    assert not (tmp_path / "out").exists() and len(written) == 5
    torn = next((part(tmp_path / "out") / convert.SERIES).iterdir()) / convert.VOLUME
    torn.write_bytes(torn.read_bytes()[:-1])
    kept = set(written[:-1]) - {"06"}  # but the one that failed; of the refused one nothing is kept
    written.clear()
    import_tree(tree, tmp_path / "out")
    every = {f"{number:02d}" for number in range(7)}
    assert len(kept - set(written)) == len(kept) - 1  # the torn one
    assert set(written) | kept == every and len(written) == len(set(written))
    assert contents(tmp_path / "out") == undisturbed and not hidden(tmp_path)


@pytest.fixture
def all_finished(tree, tmp_path, monkeypatch):
    """Stops an import of the tree to `out` once all series are finished."""
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.import_dicom.hand_over", fill_the_disk)
        with pytest.raises(OSError):
            import_tree(tree, tmp_path / "out")


def test_a_series_whose_files_changed_is_done_again_and_no_other(
    tree, all_finished, undisturbed, tmp_path, written
):
    path = next((tree / "01").iterdir())
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    import_tree(tree, tmp_path / "out")
    assert sorted(written) == ["01", "06"]  # and the refused one
    assert contents(tmp_path / "out") == undisturbed


def test_series_that_had_their_names_when_a_kill_came_are_not_done_again(
    tree, all_finished, undisturbed, tmp_path, written, monkeypatch
):
    replace = os.replace
    with monkeypatch.context() as patch:

        def failing(source, target):
            fill_the_disk(target) if "s02" in str(target) else replace(source, target)

        patch.setattr(os, "replace", failing)
        with pytest.raises(OSError):
            import_tree(tree, tmp_path / "out")
    assert list((part(tmp_path / "out") / "whole").glob("*_s01.nii.gz"))
    written.clear()
    import_tree(tree, tmp_path / "out")
    assert written == ["06"] and contents(tmp_path / "out") == undisturbed


def test_another_rule_for_subjects_takes_up_what_is_finished(tree, all_finished, tmp_path, written):
    import_tree(tree, tmp_path / "out", subject_from="folder")
    assert written == ["06"]
    import_tree(tree, tmp_path / "undisturbed", subject_from="folder")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_kill_at_any_rename_leaves_what_the_next_run_completes(tmp_path):
    tree = write_tree(tmp_path / "tree", 2)
    import_tree(tree, tmp_path / "undisturbed")
    for rename in itertools.count(1):
        out = tmp_path / f"out{rename}"
        arguments = [sys.executable, "-c", DIE_AT_A_RENAME, tree, out, str(rename)]
        died = subprocess.run(arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        if not out.exists():
            import_tree(tree, out)
        assert contents(out) == contents(tmp_path / "undisturbed")
        if died.returncode == 0:
            break
        assert died.returncode == 9 and not part(out).exists()
    # Volume and series twice, moves, two volumes, the folder; then none is left.
    assert rename == 8 + 1 and not hidden(tmp_path)


def test_a_kill_after_the_last_rename_leaves_nothing_for_long(tree, undisturbed, tmp_path):
    import_tree(tree, tmp_path / "out")
    part(tmp_path / "out").mkdir()
    (part(tmp_path / "out") / "moves.json").write_text("{}")
    with pytest.raises(InputError, match="not empty"):
        import_tree(tree, tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed and not hidden(tmp_path)


def test_two_imports_do_not_make_one_folder_at_once(tree, undisturbed, tmp_path):
    with growing(tmp_path / "out", convert.SERIES):
        with pytest.raises(InputError, match="being made by another process"):
            import_tree(tree, tmp_path / "out")
    import_tree(tree, tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed


def start(tree: Path, out: Path) -> subprocess.Popen:
    """The command in a process group of its own."""
    script = str(ROOT / "data_prep" / "import_dicom.py")
    return subprocess.Popen(
        [sys.executable, script, f"--root={tree}", f"--out={out}", "--workers=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(out: Path) -> set[str]:
    return {path.name for path in (part(out) / convert.SERIES).glob("*")}


def is_killed(process: subprocess.Popen, out: Path, series: int, more_s: float) -> bool:
    """Kills the process group once so many series are finished, and some time more is over.

    False where the import was complete before.
    """
    while len(finished(out)) < series and process.poll() is None:
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(more_s)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return running


def survives(folder: Path, kills: int) -> list[int]:
    """Asserts that an import with kills gives an undisturbed one's bytes; the series finished at
    each kill. An import that is complete before it is killed is begun anew."""
    tree = write_tree(folder / "tree", SERIES_KILLED, (30, 64, 64))
    import_tree(tree, folder / "undisturbed", workers=2)
    out, rng, counts = folder / "out", random.Random(1), []
    while len(counts) < kills:
        more = rng.randrange(2 * SERIES_KILLED // kills)  # with none, while it starts
        series = min(len(finished(out)) + more, SERIES_KILLED - 1)
        if is_killed(start(tree, out), out, series, rng.uniform(0, 0.05 if more else 1.5)):
            counts.append(len(finished(out)))
        if out.exists():
            assert contents(out) == contents(folder / "undisturbed")
            shutil.rmtree(out)
    last = start(tree, out)
    _, told = last.communicate(timeout=120)
    assert last.returncode == 0, told
    assert contents(out) == contents(folder / "undisturbed")
    assert not hidden(folder)
    return counts


def test_an_import_is_the_same_bytes_after_random_kills(tmp_path):
    counts = survives(tmp_path, KILLS)
    assert any(0 < n < SERIES_KILLED for n in counts), counts  # else no kill struck midway


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        print("series finished at each kill:", survives(Path(name), int(sys.argv[1])))
