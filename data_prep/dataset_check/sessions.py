"""Faults between scans: phases, volumes and tissue within a session, copies, pairs and splits.

A session is the scans of one subject, stage and position. Lung volumes are those of the classical
mask, whose error changes with aeration (`edm3d.segmentation`), so the bounds are wide.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.dataset_check.judge import FATAL, WARNING, Finding, scan_name
from data_prep.dataset_check.measure import Seen
from edm3d.data.cases import SPLITS
from edm3d.data.manifest import Scan, comparable_scans, split_of_pair
from edm3d.data.shards import LEAST_COVERAGE
from edm3d.data.volumes import Grid, coverage, same_grid, working_grid

LESS_GAS = 0.97  # noise of the mask: less gas than this at inspiration is a fault
INSPIRED_SHARE = (0.3, 2.0)  # of tidal volume x weight, as gas on CT
VOLUME_RATIO = 3.0  # largest to smallest lung of a session
TISSUE_TOLERANCE = 0.35  # of the session's median: tissue stays, but injured lung leaves the mask
OVERLAP_STEP_MM = 8.0
LITTLE_OVERLAP = 0.9

Session = list[Seen]  # that could be read


def session_name(scan: Scan) -> str:
    return f"{scan.subject} {scan.stage} {scan.position}"


def sessions_of(seen: Sequence[Seen]) -> list[Session]:
    """The sessions of the scans that could be read."""
    by_scan = {s.scan: s for s in seen if s.measured is not None}
    return [[by_scan[scan] for scan in group] for group in comparable_scans(list(by_scan))]


def findings_between(seen: Sequence[Seen]) -> list[Finding]:
    """All findings that more than one scan makes."""
    rules = (_breaths, _volumes, _tissue, _overlap)
    inside = [f for session in sessions_of(seen) for rule in rules for f in rule(session)]
    return [*inside, *_copies(seen), *_weights([s.scan for s in seen])]


def _finding(level: str, kind: str, scans: Sequence[Scan], message: str) -> Finding:
    rows = tuple(scan.row for scan in scans)
    return Finding(level, kind, rows, session_name(scans[0]), message)


def _breaths(session: Session) -> Iterator[Finding]:
    """Inspiration against expiration at one PEEP: more gas, and about the tidal volume more."""

    def of(phase: str) -> Session:
        return [s for s in session if s.scan.ventilation.phase == phase]

    for end, start in itertools.product(of("inspiration"), of("expiration")):
        if end.scan.ventilation.peep_cmh2o == start.scan.ventilation.peep_cmh2o:
            yield from _breath(start, end)


def _breath(start: Seen, end: Seen) -> Iterator[Finding]:
    assert start.measured and end.measured
    scans = (start.scan, end.scan)
    before, after = start.measured.gas_ml, end.measured.gas_ml
    told = f"{end.scan.scan} holds {after:.0f} ml gas, {start.scan.scan} {before:.0f} ml"
    if after < LESS_GAS * before:
        text = f"less gas at inspiration than at expiration ({told}); are the phases swapped?"
        yield _finding(FATAL, "phase", scans, text)
        return
    settings = [scan.ventilation.tidal_volume_ml_kg for scan in scans]
    if end.scan.weight_kg and settings[0] == settings[1]:
        tidal_ml = settings[0] * end.scan.weight_kg
        low, high = INSPIRED_SHARE
        if not low * tidal_ml <= after - before <= high * tidal_ml:
            text = f"{told}; the ventilator gave {tidal_ml:.0f} ml: check phase, setting, weight"
            yield _finding(WARNING, "tidal volume", scans, text)


def _volumes(session: Session) -> Iterator[Finding]:
    volumes = [s.measured.lung_ml for s in session if s.measured]
    small, large = int(np.argmin(volumes)), int(np.argmax(volumes))
    if volumes[large] > VOLUME_RATIO * volumes[small]:
        scans = (session[small].scan, session[large].scan)
        text = (
            f"lungs are {volumes[small]:.0f} ml in {scans[0].scan} and {volumes[large]:.0f} ml in "
            f"{scans[1].scan}, more than {VOLUME_RATIO:g} fold; is it one subject?"
        )
        yield _finding(WARNING, "lung volume", scans, text)


def _tissue(session: Session) -> Iterator[Finding]:
    masses = [s.measured.tissue_g for s in session if s.measured]
    median = float(np.median(masses))
    for seen, mass in zip(session, masses, strict=True):
        if abs(mass - median) > TISSUE_TOLERANCE * median:
            text = (
                f"lung tissue of {seen.scan.scan} is {mass:.0f} g, the session's median "
                f"{median:.0f} g; tissue stays within {TISSUE_TOLERANCE:.0%} between breaths"
            )
            yield _finding(WARNING, "tissue mass", (seen.scan,), text)


def _distinct_grids(session: Session) -> list[tuple[Grid, Scan]]:
    found: list[tuple[Grid, Scan]] = []
    for seen in session:
        assert seen.grid is not None
        if not any(same_grid(seen.grid, grid) for grid, _ in found):
            found.append((seen.grid, seen.scan))
    return found


def _overlap(session: Session) -> Iterator[Finding]:
    """How much of each prior its targets cover, once for each pair of distinct grids."""
    for (prior, first), (target, second) in itertools.permutations(_distinct_grids(session), 2):
        covered = coverage(target, working_grid(prior, OVERLAP_STEP_MM))
        if covered < LITTLE_OVERLAP:
            level = FATAL if covered < LEAST_COVERAGE else WARNING
            text = (
                f"{second.scan} covers {covered:.0%} of {first.scan} in scanner coordinates; "
                "pair only scans of one frame and field of view"
            )
            yield _finding(level, "overlap", (first, second), text)


def _copies(seen: Sequence[Seen]) -> Iterator[Finding]:
    first: dict[str, Scan] = {}
    for one in (s for s in seen if s.measured):
        assert one.measured
        other = first.setdefault(one.measured.values_sha256, one.scan)
        if other is not one.scan:
            text = f"every voxel equals that of {scan_name(other)} (row {other.row}); it is a copy"
            yield Finding(FATAL, "copy", (other.row, one.scan.row), scan_name(one.scan), text)


def _weights(scans: Sequence[Scan]) -> Iterator[Finding]:
    weights: dict[str, dict[float, int]] = {}
    for scan in scans:
        if scan.weight_kg is not None:
            weights.setdefault(scan.subject, {}).setdefault(scan.weight_kg, scan.row)
    for subject, rows in weights.items():
        if len(rows) > 1 and max(rows) > 1.1 * min(rows):
            shown = ", ".join(f"{weight:g}" for weight in rows)
            text = f"its weights are {shown} kg; they differ by more than 10 %"
            yield Finding(WARNING, "weight", tuple(rows.values()), subject, text)


# Pairs and splits.


def pairs_of_splits(scans: Sequence[Scan]) -> dict[str, int]:
    """How many pairs each split gets."""
    pairs = (p for group in comparable_scans(scans) for p in itertools.permutations(group, 2))
    counts = Counter(split_of_pair(pair) for pair in pairs)
    return {split: counts[split] for split in SPLITS}


def findings_of_pairs(scans: Sequence[Scan]) -> list[Finding]:
    """What follows of scans with their splits: scans without a partner, splits without a pair."""
    found = [
        Finding(
            WARNING,
            "no partner",
            (group[0].row,),
            session_name(group[0]),
            f"{group[0].scan} is the only scan of its session, so it is in no pair",
        )
        for group in comparable_scans(scans)
        if len(group) == 1
    ]
    found += [
        Finding(
            WARNING,
            "no prior",
            tuple(scan.row for scan in group),
            session_name(group[0]),
            "no scan of its session has a CT, so there is nothing to start from",
        )
        for group in comparable_scans(scans)
        if len(group) > 1 and not any(scan.ct for scan in group)
    ]
    for split, pairs in pairs_of_splits(scans).items():
        if pairs == 0 and all(scan.split for scan in scans):
            level = FATAL if split == "train" else WARNING
            found.append(Finding(level, "split", (), split, f"no pair is in split {split}"))
    return found
