"""Checks a table of scans before records are built of it: opens every scan, names every fault.

    python data_prep/check_dataset.py --manifest=scans.csv --config=configs/ards.py \
        --html=check/page.html

Prints a table of the scans and all findings; --json prints the same for machines. The page shows
every scan in pictures. Exit code 2 when anything is fatal: records of it would be wrong.
`data_prep.dataset_check.judge` and `.sessions` say what is looked at, with their bounds.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.dataset_check import film_faults, films, judge, measure, page, sessions
from data_prep.dataset_check.judge import FATAL, Finding, scan_name
from data_prep.dataset_check.measure import Seen
from edm3d import command
from edm3d.data.cases import SPLITS, ScalarRanges
from edm3d.data.manifest import Rows, Scan, assign_splits, comparable_scans, read_rows
from edm3d.data.record_checks import range_faults
from edm3d.data.workers import outcomes, usable_cores
from edm3d.data.xray_geometry import Geometry, check_geometry, geometry_of
from edm3d.errors import InputError


def define_flags() -> None:
    flags.DEFINE_string("manifest", None, "The table of scans (CSV).", required=True)
    config_flags.DEFINE_config_file("config", None, "A configuration: its ranges, splits, seed.")
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
    flags.DEFINE_string("html", None, "The page of pictures to write, FOLDER/page.html.")
    flags.DEFINE_integer("workers", usable_cores(), "Processes.", lower_bound=1)
    flags.DEFINE_bool("allow_outside", False, "Let the table's paths leave its folder.")
    flags.DEFINE_bool("same_subject_splits", False, "As for build_records.py.")


def see_all(rows: Rows, workers: int, geometry: Geometry = measure.PARALLEL) -> list[Seen]:
    """Every scan whose files can be opened, in the order of the table; one at a time a worker."""
    files = ("ct", "series", "lung_mask")
    scans = [s for s in rows.scans if not any((s.row, name) in rows.unusable for name in files)]
    scans = [_without_unusable_films(scan, rows) for scan in scans]
    items = [(scan, None if scan.ct else _reference(scan, scans)) for scan in scans]
    bar = tqdm(
        outcomes(partial(_see, geometry=geometry), items, min(workers, max(len(items), 1))),
        total=len(items),
        unit="scan",
        desc="check",
        mininterval=1.0,
    )
    return sorted(bar, key=lambda seen: seen.scan.row)


def _see(item: tuple[Scan, Scan | None], geometry: Geometry) -> Seen:
    scan, reference = item
    return measure.see(scan, geometry, reference)


def _without_unusable_films(scan: Scan, rows: Rows) -> Scan:
    """The scan without films whose cells are told as faults of the table."""
    for film in ("xray_pa", "xray_lat"):
        if {(scan.row, film), (scan.row, f"{film}_pixel_mm")} & rows.unusable:
            scan = dataclasses.replace(scan, **{film: None, f"{film}_pixel_mm": None})
    return scan


def _reference(scan: Scan, scans: Sequence[Scan]) -> Scan | None:
    """A scan with a CT that could be the prior of `scan`."""
    (group,) = (group for group in comparable_scans(scans) if scan in group)
    return next((other for other in group if other.ct), None)


def geometry_of_config(config: Any) -> Geometry:
    """The config's geometry of X-rays; parallel beam without one."""
    if config is None:
        return measure.PARALLEL
    with command.data_section_errors():
        geometry = geometry_of(config.data, int(config.seed))
    check_geometry(geometry)
    return geometry


def all_findings(
    rows: Rows, seen: Sequence[Seen], ranges: ScalarRanges | None, scans: Sequence[Scan]
) -> list[Finding]:
    """Faults of the table, of each scan, between scans, and of the pairs; fatal ones first.

    `scans` are those of sound rows, with the splits that they will have.
    """
    sound = {scan.row for scan in scans}
    found = [Finding(FATAL, "manifest", (row,), f"row {row}", text) for row, text in rows.faults]
    found += [finding for one in seen for finding in judge.findings_of(one)]
    found += [finding for one in seen for finding in film_faults.findings_of_films(one)]
    found += sessions.findings_between([one for one in seen if one.scan.row in sound])
    found += sessions.findings_of_pairs(scans)
    if ranges is not None:
        found += [
            Finding(FATAL, "range", (scan.row,), scan_name(scan), text)
            for scan in scans
            for text in range_faults(scan, ranges)
        ]
    return sorted(found, key=lambda f: (f.level != FATAL, f.rows, f.kind))


def splits_and_ranges(
    rows: Rows, config: Any, one_subject: bool
) -> tuple[list[Scan], ScalarRanges | None]:
    """The scans of sound rows with the splits they will have, and the config's ranges."""
    broken = {row for row, _ in rows.unusable}
    scans = [scan for scan in rows.scans if scan.row not in broken]
    if config is None:
        return scans, None
    try:
        ranges = {name: tuple(value) for name, value in config.data.scalar_ranges.items()}
        train, val, test = (float(config.data.split_fractions[split]) for split in SPLITS)
        seed = int(config.seed)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"section data of --config is {error}; see configs/ards.py") from error
    if not one_subject and not any(scan.split for scan in scans):
        scans = assign_splits(scans, seed, (train, val, test))
    return scans, ScalarRanges(**ranges)


def summary(scans: Sequence[Scan], findings: Sequence[Finding]) -> list[str]:
    """What was found, in a few lines."""
    fatal = sum(f.level == FATAL for f in findings)
    subjects = len({scan.subject for scan in scans})
    lines = [
        f"{fatal} fatal, {len(findings) - fatal} warnings in {len(scans)} scans of {subjects} "
        "subjects"
    ]
    if all(scan.split for scan in scans):
        pairs = sessions.pairs_of_splits(scans)
        lines.append("pairs: " + ", ".join(f"{split} {pairs[split]}" for split in SPLITS))
    else:
        lines.append("no split column: build_records.py draws the splits by --config")
    return lines


def _plain(text: str) -> str:
    """`text` without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def show(seen: Sequence[Seen], findings: Sequence[Finding], told: Sequence[str]) -> None:
    """Prints a line a scan, a line a finding, and the summary."""
    worst = {row: f.level for f in reversed(findings) for row in f.rows}
    names = [_plain(scan_name(one.scan)) for one in seen]
    width = max(map(len, names), default=4)
    head = "air HU  tissue HU  right ml  left ml  gas ml  tissue g  padding  position (seen)"
    print(f"{'row':>5}  {'scan':<{width}}  {head}")
    for one, name in zip(seen, names, strict=True):
        print(f"{one.scan.row:>5}  {name:<{width}}  {_numbers(one)}  {worst.get(one.scan.row, '')}")
        for film in one.films:
            print(f"{'':>5}  {'':<{width}}  {_plain(films.told(film))}")
    for f in findings:
        print(f"{f.level}: {_plain(f.where)}: {f.kind}: {_plain(f.message)}")
    print("\n".join(told))


def _numbers(seen: Seen) -> str:
    m = seen.measured
    if m is None:
        return f"{'not readable' if seen.fault else 'films only':<83}"
    position, sure = judge.position_seen(m)
    shown = f"{_plain(seen.scan.position)} ({position} {sure:.2f})"
    air, tissue = ("-" if v is None else f"{v:.0f}" for v in (m.air_hu, m.tissue_hu))
    return (
        f"{air:>6}  {tissue:>9}  {m.right_ml:>8.0f}  {m.left_ml:>7.0f}  {m.gas_ml:>6.0f}  "
        f"{m.tissue_g:>8.0f}  {m.padding_share:>7.1%}  {shown:<22}"
    )


def as_json(seen: Sequence[Seen], findings: Sequence[Finding], told: Sequence[str]) -> str:
    """All of it for machines; numbers that are unknown are null."""

    def plain(one: Seen) -> dict[str, Any]:
        about = {"row": one.scan.row, "subject": one.scan.subject, "scan": one.scan.scan}
        seen_films = [film.to_plain() for film in one.films]
        if one.measured is None:
            return {**about, "fault": one.fault, "films": seen_films}
        position, sure = judge.position_seen(one.measured)
        values = dataclasses.asdict(one.measured)
        values = {k: None if v != v else v for k, v in values.items()}  # NaN is no JSON
        values |= {"films": seen_films}
        return {**about, **values, "position_seen": position, "position_confidence": sure}

    content = {
        "fatal": sum(f.level == FATAL for f in findings),
        "warnings": sum(f.level != FATAL for f in findings),
        "summary": list(told),
        "findings": [dataclasses.asdict(f) for f in findings],
        "scans": [plain(one) for one in seen],
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _place_of_page(path: Path) -> None:
    """Makes the page's folder; raises `InputError` or `OSError` before hours of work, not after."""
    if path.is_dir():
        raise InputError(f"--html {path} is a folder; give FOLDER/page.html")
    path.parent.mkdir(parents=True, exist_ok=True)


def _write_page(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    rows = read_rows(f.manifest, f.allow_outside, same_subject_splits=f.same_subject_splits)
    scans, ranges = splits_and_ranges(rows, f.config, f.same_subject_splits)
    if f.html:
        _place_of_page(Path(f.html))
    seen = see_all(rows, f.workers, geometry_of_config(f.config))
    findings = all_findings(rows, seen, ranges, scans)
    told = summary(scans, findings)
    if f.html:
        _write_page(Path(f.html), page.render(seen, findings, told))
        told.append(f"pictures: {f.html}")
    if f.json:
        print(as_json(seen, findings, told))
    else:
        show(seen, findings, told)
    if any(finding.level == FATAL for finding in findings):
        sys.exit(command.EXIT_BAD_INPUT)


if __name__ == "__main__":
    define_flags()
    command.run(main)
