"""Turns a table of scans into training, validation and test records.

    python data_prep/build_records.py --manifest=scans.csv --out=data/records \
        --config=configs/ards.py --workers=8

Every pair of scans of one subject, stage and position becomes a case on the prior's working grid,
with X-rays computed from the target. `edm3d.data.manifest` lists the table's columns.

Interrupted, the same command goes on where it stopped: finished groups wait in the hidden folder
.NAME.part beside --out. A group whose rows or files have changed is built anew; other settings are
refused unless --restart is given. Many machines share the work, each with one of n parts, and one
then merges (launch/build_records.sbatch):

    python data_prep/build_records.py ... --shard=3/8
    python data_prep/build_records.py ... --merge
"""

import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from edm3d import command
from edm3d.data.cases import SPLITS, DatasetInfo, ScalarRanges
from edm3d.data.film_match import LOW_CORRELATION
from edm3d.data.manifest import (
    Scan,
    assign_splits,
    pair_scans,
    read_manifest,
    split_of_pair,
)
from edm3d.data.partial import partial_folder
from edm3d.data.records import checked_groups, merge_records, write_records, write_share
from edm3d.data.shard_file import ShardSummary
from edm3d.data.shards import RecordSettings
from edm3d.data.share import Share
from edm3d.data.workers import usable_cores
from edm3d.data.xray_geometry import geometry_of
from edm3d.errors import InputError

MANIFEST = flags.DEFINE_string("manifest", None, "The table of scans (CSV).", required=True)
OUT = flags.DEFINE_string("out", None, "The folder of records to make.", required=True)
CONFIG = config_flags.DEFINE_config_file("config", None, "A configuration; its section `data`.")
WORKERS = flags.DEFINE_integer("workers", usable_cores(), "Processes.", lower_bound=1)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the records that --out holds.")
RESTART = flags.DEFINE_bool("restart", False, "Build anew what an earlier command finished.")
SHARD = flags.DEFINE_string("shard", None, "Build part i of n only, as i/n; i counts from 1.")
MERGE = flags.DEFINE_bool("merge", False, "Make --out of the parts, once all are built.")
ALLOW_OUTSIDE = flags.DEFINE_bool(
    "allow_outside", False, "Let the table's paths leave the folder of the table."
)
SAME_SUBJECT_SPLITS = flags.DEFINE_bool(
    "same_subject_splits",
    False,
    "Smoke tests with one subject: the split column holds for scans, not subjects. A pair takes "
    "its target's split; val and test scans stay out of training. Says nothing of new subjects.",
)


def settings_of(data: Mapping[str, Any], seed: int) -> RecordSettings:
    """The record settings of a config's `data` section; `seed` is that of bedside X-rays."""
    geometry = geometry_of(data, seed)
    ranges = {name: tuple(value) for name, value in data["scalar_ranges"].items()}
    return RecordSettings(
        spacing_mm=float(data["spacing_mm"]),
        window_hu=(float(data["window_hu"][0]), float(data["window_hu"][1])),
        block=int(data["block"]),
        antialias=bool(data["antialias"]),
        mu_water_per_mm=geometry.mu_water_per_mm,
        scalar_ranges=ScalarRanges(**ranges),
        cone=geometry.cone,
        bedside=geometry.bedside,
    )


def fractions_of(data: Mapping[str, Any]) -> tuple[float, float, float]:
    """The shares of train, val and test subjects."""
    train, val, test = (float(data["split_fractions"][split]) for split in SPLITS)
    return train, val, test


def scans_with_splits(seed: int, fractions: tuple[float, float, float]) -> list[Scan]:
    """The manifest's scans, each with its split."""
    one_subject = SAME_SUBJECT_SPLITS.value
    scans = read_manifest(MANIFEST.value, ALLOW_OUTSIDE.value, same_subject_splits=one_subject)
    if one_subject and not all(scan.split for scan in scans):
        raise InputError("--same_subject_splits needs the split column; fill it for every scan")
    return assign_splits(scans, seed, fractions)


def film_lines(shards: list[ShardSummary]) -> list[str]:
    """How well the films of all shards fit: the worst of the three worst shards, and a warning."""
    worst = [shard.worst_film for shard in shards if shard.worst_film]
    if not worst:
        return []
    told = "; ".join(
        f"{f['correlation']:.2f} {f['view']} of {f['case_id']}, moved {f['shift_mm'][0]:+.0f} mm "
        f"up and {f['shift_mm'][1]:+.0f} mm right"
        for f in sorted(worst, key=lambda film: film["correlation"])[:3]
    )
    films, poor = (sum(n) for n in zip(*((s.films, s.poor_films) for s in shards), strict=True))
    lines = [f"{films} film fits, lowest correlations with the prior's projection: {told}"]
    if poor:
        lines.append(
            f"warning: {poor} of them correlate less than {LOW_CORRELATION:g}; another view, "
            "subject or scale? look at them with data_prep/check_dataset.py --html"
        )
    return lines


def show(info: DatasetInfo, shards: list[ShardSummary], seconds: float) -> None:
    """Prints what was made."""
    for split in SPLITS:
        subjects, counts = info.subjects[split], info.counts[split]
        without = sum(shard.without_truth for shard in shards if shard.split == split)
        print(
            f"{split:>5}: {len(subjects)} subjects, {counts['cases']} pairs, "
            f"{counts['records']} records" + (f", {without} of them without truth" * bool(without))
        )
    size_mb = sum(file["bytes"] for file in info.files.values()) / 1e6
    print(f"residual std {info.residual_std:.4f} of unit CT, {size_mb:.1f} MB, {seconds:.1f} s")
    least = min(shards, key=lambda shard: shard.least_coverage)
    if least.least_coverage < 0.95:
        print(
            f"note: a target of subject {least.subject} covers only {least.least_coverage:.0%} of "
            "its prior's volume; the rest is taken for air"
        )
    for line in film_lines(shards):
        print(line)
    if info.split_by == "pair":
        print("note: SPLIT BY PAIR of one subject: results say nothing about new subjects")


def note_targets_left_out(scans: list[Scan]) -> None:
    """Prints how many scans without CT go into no records."""
    targets = {pair[1] for pair in pair_scans(scans) if split_of_pair(pair)}
    left = [scan for scan in scans if scan.ct is None and scan not in targets]
    if left:
        print(
            f"note: {len(left)} scans without ct (row {left[0].row} first) go into no records: "
            "they can only be test targets, beside a CT of their subject, stage and position"
        )


def share_of_flags() -> Share | None:
    """The part that --shard names."""
    if RESTART.value and (SHARD.value is not None or MERGE.value):
        folder = partial_folder(Path(OUT.value).absolute())
        raise InputError(f"--restart would undo other parts; remove {folder} by hand instead")
    if SHARD.value is None:
        return None
    if MERGE.value:
        raise InputError("--shard and --merge are both given; build the parts, then merge them")
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", SHARD.value)
    if not found:
        raise InputError(f"--shard is {SHARD.value!r}; give i/n, for example --shard=1/8")
    return Share(int(found[1]), int(found[2]))


def settings_and_seed() -> tuple[RecordSettings, int, tuple[float, float, float]]:
    """Record settings, seed and split fractions of --config."""
    if CONFIG.value is None:
        raise InputError("--config is missing; give --config=configs/ards.py")
    with command.data_section_errors():
        data, seed = CONFIG.value.data, int(CONFIG.value.seed)
        return settings_of(data, seed), seed, fractions_of(data)


def build_share(scans: list[Scan], settings: RecordSettings, share: Share) -> None:
    """Builds one part, for a later --merge."""
    pairs = sum(group.pairs for group in share.part_of(checked_groups(scans)))
    with tqdm(total=pairs, unit="pair", desc=f"part {share}", mininterval=1.0) as bar:
        shards = write_share(
            scans,
            OUT.value,
            settings,
            share,
            workers=WORKERS.value,
            overwrite=OVERWRITE.value,
            progress=bar.update,
        )
    folder = partial_folder(Path(OUT.value).absolute())
    print(f"part {share}: {pairs} pairs in {len(shards)} shards wait in {folder} for --merge")


def main(argv: list[str]) -> None:
    del argv
    start, share = time.monotonic(), share_of_flags()
    settings, seed, fractions = settings_and_seed()
    scans = scans_with_splits(seed, fractions)
    note_targets_left_out(scans)
    if share is not None:
        build_share(scans, settings, share)
        return
    write = merge_records if MERGE.value else partial(write_records, restart=RESTART.value)
    pairs = sum(group.pairs for group in checked_groups(scans))
    with tqdm(total=pairs, unit="pair", desc="records", mininterval=1.0) as bar:
        info, shards = write(
            scans,
            OUT.value,
            settings,
            seed=seed,
            split_by="pair" if SAME_SUBJECT_SPLITS.value else "subject",
            workers=WORKERS.value,
            overwrite=OVERWRITE.value,
            progress=bar.update,
        )
    show(info, shards, time.monotonic() - start)


if __name__ == "__main__":
    command.run(main)
