"""A virtual cohort goes straight into records: counts and splits are those of its table."""

from collections import Counter
from pathlib import Path

from small_cohort import table

from edm3d.data.cases import ScalarRanges, read_dataset_info
from edm3d.data.manifest import read_manifest
from edm3d.data.records import write_records
from edm3d.data.shards import RecordSettings

RANGES = ScalarRanges((3.0, 15.0), (6.0, 12.0))
SETTINGS = RecordSettings(
    spacing_mm=16.0,
    window_hu=(-1024.0, 1024.0),
    block=160,
    antialias=True,
    mu_water_per_mm=0.0206,
    scalar_ranges=RANGES,
)


def pairs_by_split(rows: list[dict[str, str]]) -> dict[str, int]:
    """Ordered pairs of scans of one pig, stage and position."""
    groups = Counter((r["split"], r["subject"], r["stage"], r["position"]) for r in rows)
    pairs: Counter[str] = Counter()
    for (split, *_), n in groups.items():
        pairs[split] += n * (n - 1)
    return dict(pairs)


def test_records_of_a_virtual_cohort_have_the_pairs_and_splits_of_its_table(cohort, tmp_path):
    rows = table(Path(cohort) / "scans.csv")
    write_records(read_manifest(cohort / "scans.csv"), tmp_path / "records", SETTINGS, seed=0)
    info = read_dataset_info(tmp_path / "records")
    assert {s: n["cases"] for s, n in info.counts.items() if n["cases"]} == pairs_by_split(rows)
    for split in ("train", "val", "test"):
        own = {r["subject"] for r in rows if r["split"] == split}
        assert set(info.subjects[split]) == own
