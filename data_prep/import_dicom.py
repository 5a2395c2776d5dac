"""Turns a tree of DICOM into one NIfTI per good CT series and a table of scans to fill in.

    python data_prep/import_dicom.py --root=/data/dicom --out=data/imported

`--out` gets PIG_SCAN.nii.gz (int16 HU), `scans.csv` (the manifest with what headers tell; fill in
the empty cells), `sources.csv` (which folder became which scan) and `refused.csv` (every series and
file that was not taken, and why). Subjects get new names, in the order of a digest that is stored
nowhere; no name, date or identifier of a header is written. `sources.csv` and `refused.csv` name
folders of `--root`: keep them with the DICOM where those folders are named after people. One animal
more changes the names of others, unless `--earlier` names the `sources.csv` of an earlier import.

A series is taken whole or refused: one whose files tell of several subjects or postures, that lies
beside a damaged file, or of which a file has no rows or columns, is refused. What is passed over is
counted: objects without pixels (reports, structures), files that are no DICOM, hidden folders.
Linked folders are followed.

Series of one PatientID are one subject. Where anonymising has given all the same one, let the study
or the folder directly below `--root` tell subjects apart (`--subject_from`): pairs are made within
a subject. A warning says where that looks needed.

`--out` must be new or empty, and appears when it is complete; until then it grows in `.OUT.part`
beside it, and the same command goes on after a kill without doing finished series again. Its bytes
are the same for any number of workers. Exit code 2 when nothing was imported.
"""

import json
import shutil
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from absl import flags
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.dicom_import.convert import (
    BUILDING,
    SERIES,
    Converted,
    Refused,
    convert,
    printable,
    relative,
)
from data_prep.dicom_import.earlier import read_earlier
from data_prep.dicom_import.outcome import Outcome, named, write_tables
from data_prep.dicom_import.subjects import warnings_of
from data_prep.dicom_import.tree import FOLDER, PATIENT, STUDY, Group, find_groups
from data_prep.whole_folder import growing, hand_over, resolved
from edm3d import command
from edm3d.data.workers import outcomes, usable_cores
from edm3d.errors import InputError


def define_flags() -> None:
    flags.DEFINE_string("root", None, "The tree of DICOM files.", required=True)
    flags.DEFINE_string("out", None, "Folder to make; must not exist, or be empty.", required=True)
    flags.DEFINE_enum(
        "subject_from",
        PATIENT,
        [PATIENT, STUDY, FOLDER],
        "What tells subjects apart: PatientID, StudyInstanceUID, or the folder below --root.",
    )
    flags.DEFINE_string(
        "earlier", None, "The sources.csv of an earlier import of this tree, whose names are kept."
    )
    flags.DEFINE_integer("workers", usable_cores(), "Processes.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print what was imported and refused as JSON.")


def convert_all(
    groups: list[Group], root: Path, folder: Path, workers: int
) -> list[Converted | Refused]:
    """What became of each series, in their order; one at a time a worker."""
    shutil.rmtree(folder / BUILDING, ignore_errors=True)
    (folder / BUILDING).mkdir()
    task = partial(convert, root=root, folder=folder)
    done = outcomes(task, list(enumerate(groups)), min(workers, max(len(groups), 1)))
    bar = tqdm(done, total=len(groups), unit="series", desc="import", disable=None)
    return [one for _, one in sorted(bar, key=lambda item: item[0])]


def import_tree(
    root: Path,
    out: Path,
    *,
    subject_from: str = PATIENT,
    workers: int = 1,
    earlier: Path | None = None,
) -> Outcome:
    """Makes `out` of every good series of `root`; where there is none, nothing is made.

    Subjects and scans of the `sources.csv` at `earlier` keep their names.
    """
    names = read_earlier(earlier) if earlier else {}
    out = resolved(out)
    with growing(out, SERIES) as folder:
        groups, found = find_groups(root, subject_from, workers)
        warnings = warnings_of(groups) if subject_from == PATIENT else []
        for warning in warnings:  # before the hours, not after
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        refused = [
            Refused(relative(path, root), None, 1, printable(why))
            for path, why in found.unreadable.items()
        ]
        done = convert_all(groups, root, folder, workers)
        refused += [one for one in done if isinstance(one, Refused)]
        imported, sources = named(
            [(g, one) for g, one in zip(groups, done, strict=True) if isinstance(one, Converted)],
            names,
        )
        outcome = Outcome(imported, refused, found.without_pixels, found.by_name, warnings)
        if imported:
            hand_over(folder, sources, out, partial(write_tables, outcome))
    return outcome


def show(outcome: Outcome, out: Path) -> None:
    """Prints what was imported and what was not."""
    for one in outcome.refused:
        print(f"refused: {one.reason}")
    if outcome.without_pixels:
        print(f"passed over: {outcome.without_pixels} objects without pixels")
    if outcome.passed_by_name:
        print(f"passed over: {outcome.passed_by_name} files or hidden folders that names rule out")
    subjects = len({one.subject for one in outcome.imported})
    print(
        f"{printable(str(out))}: {len(outcome.imported)} scans of {subjects} subjects, "
        f"{len(outcome.refused)} refused; fill in the empty cells of scans.csv"
    )


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    root, out = Path(f.root), Path(f.out)
    if not root.is_dir():
        told = printable(str(root))
        raise InputError(f"--root is {told}, which is no folder; name a tree of DICOM")
    earlier = Path(f.earlier) if f.earlier else None
    outcome = import_tree(
        root, out, subject_from=f.subject_from, workers=f.workers, earlier=earlier
    )
    if f.json:
        print(json.dumps(asdict(outcome), indent=1))
    if not outcome.imported:
        reasons = [one.reason for one in outcome.refused]
        told = f"nothing of {printable(str(root))} was imported"
        nothing = f"{told} ({len(reasons)} refused); give CT series"
        raise InputError("\n".join([*reasons, nothing]))
    if not f.json:
        show(outcome, out)


if __name__ == "__main__":
    define_flags()
    command.run(main)
