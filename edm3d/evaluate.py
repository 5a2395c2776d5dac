"""Compares generated with original CT: `python -m edm3d.evaluate --samples= --records= --out=`.

Reads the test cases of the records that have a complete sample, measures lung volume and aeration
of original, prior and generated CT under one source of lung masks, and writes a report folder:
`report.html`, `metrics.json`, `cases.csv`, `figures/`. Copying the prior is evaluated beside the
model, everywhere.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

import edm3d
from edm3d import command, comparison, segmentation
from edm3d.comparison import CaseResult, MaskSource, NoLungError
from edm3d.data.cases import Case, DatasetInfo, read_cases, read_dataset_info
from edm3d.data.volumes import Grid
from edm3d.errors import InputError
from edm3d.report import figures, folder, page
from edm3d.report.figures import CasePicture
from edm3d.report.methods import NO_LUNG_VOLUME, data_remarks, methods_text
from edm3d.report.page import Picture, Report
from edm3d.report.summary import (
    GAS_VOLUME,
    LUNG_VOLUME,
    PEEP_BOTH,
    TO_EXPIRATION,
    TO_INSPIRATION,
    Quantity,
    summarise,
)

SAMPLES = flags.DEFINE_string("samples", None, "Folder of edm3d.sample: one folder a case.")
RECORDS = flags.DEFINE_string("records", None, "Folder of records with the original CTs.")
OUT = flags.DEFINE_string("out", None, "Where the report folder goes.")
MASKS = flags.DEFINE_enum(
    "masks", "classical", ["classical", "given", "lungmask"], "Where lung masks come from."
)
LUNGMASK_MODEL = flags.DEFINE_enum(
    "lungmask_model", "R231", list(segmentation.LUNGMASK_MODELS), "Network of --masks=lungmask."
)
LUNGMASK_WEIGHTS = flags.DEFINE_string("lungmask_weights", None, "Its weights file.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a report that is there.")
VIRTUAL_COHORT = flags.DEFINE_bool("virtual_cohort", False, "Say that the animals are simulated.")


INPUTS = {"prior_hu": "prior", "xray_pa": "PA X-ray", "xray_lat": "lateral X-ray"}


PAPERS_3B = "As the paper's Figure 3B: normally aerated lung green, poorly aerated red. "
MEAN_IMAGE = (
    "The generated CT is the mean image of the ensemble, whose classes differ from the members' "
    "mean shares in the tables. "
)


@dataclass(frozen=True)
class Sample:
    """A complete sample folder and what its case.json says."""

    folder: Path
    members: int
    record: dict[str, Any]


def find_samples(samples: Path, cases: Sequence[Case]) -> tuple[dict[int, Sample], list[str]]:
    """The complete samples by index of their case, and remarks on what is missing or left over."""
    if not samples.is_dir():
        raise InputError(f"--samples {samples} is no folder; give the folder of edm3d.sample")
    found, ids, without_truth = {}, set(), 0
    for index in range(len(cases)):
        case = cases[index]
        ids.add(case.case_id)
        without_truth += case.target_hu is None
        if case.target_hu is not None and (samples / case.case_id / "case.json").is_file():
            found[index] = read_sample(samples / case.case_id, case)
    with_truth = len(cases) - without_truth
    if without_truth and not with_truth:
        raise InputError(f"none of the {len(cases)} test cases has a target CT to compare with")
    if not found:
        raise InputError(
            f"no complete sample of the {with_truth} test cases is in {samples}; "
            "run edm3d.sample with the same records first"
        )
    others = {p.parent.name for p in samples.glob("*/case.json")} - ids
    remarks = [f"{len(found)} of {with_truth} test cases sampled."]
    if without_truth:
        remarks.append(
            f"{without_truth} more have films but no target CT: skipped, there is no truth to "
            "compare with."
        )
    if others:
        remarks.append(f"{len(others)} sample folders belong to no test case of these records.")
    return found, remarks


def read_sample(path: Path, case: Case) -> Sample:
    """The sample of a case, checked to have been drawn from this very prior and X-rays."""
    try:
        record = json.loads((path / "case.json").read_text(encoding="utf-8"))
        drawn_from = {name: record["input_sha256"][name] for name in INPUTS}
        members = int(record["members"])
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / 'case.json'} is damaged ({error}); sample the case again"
        ) from error
    if members < 1:
        raise InputError(f"members of {path / 'case.json'} is {members}; sample the case again")
    for name, what in INPUTS.items():
        here = hashlib.sha256(np.ascontiguousarray(getattr(case, name)).tobytes()).hexdigest()
        if drawn_from[name] != here:
            raise InputError(
                f"sample {path} was drawn from another {what} than the record's; sample it again"
            )
    return Sample(path, members, record)


def mask_source() -> MaskSource:
    """The lung masks that the flags ask for."""
    if MASKS.value == "given":
        return MaskSource("given")
    if MASKS.value == "classical":
        return MaskSource("classical", _classical)
    weights, model = LUNGMASK_WEIGHTS.value, LUNGMASK_MODEL.value
    operator = partial(segmentation.lungmask_lungs, modelname=model, modelpath=weights)
    return MaskSource(f"lungmask {model}", operator)


def _classical(volume_hu: np.ndarray, grid: Grid) -> np.ndarray:
    return segmentation.classical_lungs(volume_hu, grid.spacing_zyx_mm)


def measure(
    cases: Sequence[Case], samples: dict[int, Sample], masks: MaskSource
) -> tuple[dict[int, CaseResult], list[str]]:
    """Every sampled case's result by index, and a remark for each case without a lung."""
    results, remarks = {}, []
    for index, sample in tqdm(samples.items(), unit="case"):
        try:
            results[index] = comparison.compare_case(
                cases[index], sample.folder, masks, members=sample.members
            )
        except NoLungError as error:
            remarks.append(f"Left out: {error}.")
    if not results:
        raise InputError("\n".join(remarks) + "\nno case is left to evaluate; use other --masks")
    return results, remarks


def picture_of(case: Case, sample: Sample, masks: MaskSource) -> CasePicture:
    """The volumes and masks of one case for the picture panels."""
    assert case.target_hu is not None
    generated = comparison.read_generated(case, sample.folder / "generated.nii.gz")
    volumes = (case.prior_hu, case.target_hu, generated)
    names = ("prior", "original", "generated")
    lungs = [comparison.lung_mask(v, case, masks, n) for v, n in zip(volumes, names, strict=True)]
    v = (case.prior_ventilation, case.target_ventilation)
    settings = " to ".join(f"PEEP {s.peep_cmh2o:g} {s.phase}" for s in v)
    title = f"{case.subject}, {case.stage}, {case.position}, {settings}"
    return CasePicture(title, case.grid.spacing_zyx_mm, *volumes, *lungs)


def draw(
    cases: Sequence[Case],
    samples: dict[int, Sample],
    results: dict[int, CaseResult],
    masks: MaskSource,
) -> tuple[Picture, ...]:
    """The page's pictures: the paper's Figures 2, 3A, 3B where their cases exist, and one case."""
    measured = list(results.values())
    peep = [r for r in measured if PEEP_BOTH.holds(r)]
    index_of = {r.case_id: i for i, r in results.items()}
    shown = index_of[comparison.representative(peep or measured).case_id]
    picture = picture_of(cases[shown], samples[shown], masks)
    among = "the cases of PEEP 3 to 8 or 13 cmH2O" if peep else "all cases"
    middle = f"The case of median error in the lung among {among}"
    overlay = PAPERS_3B if peep else "Normally aerated lung green, poorly aerated red. "
    if samples[shown].members > 1:
        overlay += MEAN_IMAGE
    return (
        *_agreement_pictures(measured, GAS_VOLUME if masks.is_given else LUNG_VOLUME),
        Picture(
            "figure_3b",
            figures.png(figures.aeration_overlay(picture)),
            f"{overlay}{middle}.",
        ),
        Picture("three_planes", figures.png(figures.three_planes(picture)), f"{middle}."),
    )


def _agreement_pictures(measured: Sequence[CaseResult], volume: Quantity) -> list[Picture]:
    name = volume.title.lower()
    reading = "(A) Bland-Altman: solid bias, dotted 95 % limits; (B) regression."
    pictures = [
        Picture(
            "all_cases",
            figures.png(figures.agreement_of_all(measured, volume)),
            f"All cases, {name}. {reading}",
        )
    ]
    if any(g.holds(r) for r in measured for g in (TO_INSPIRATION, TO_EXPIRATION)):
        drawn = figures.png(figures.volume_by_phase(measured, volume))
        caption = f"As the paper's Figure 2: {name} by target phase. {reading}"
        pictures.append(Picture("figure_2", drawn, caption))
    if any(PEEP_BOTH.holds(r) for r in measured):
        drawn = figures.png(figures.normally_aerated_by_peep(measured))
        caption = f"As the paper's Figure 3A: normally aerated lung at raised PEEP. {reading}"
        pictures.append(Picture("figure_3a", drawn, caption))
    return pictures


def provenance_of(
    samples: dict[int, Sample], cases: int, info: DatasetInfo, masks: MaskSource
) -> dict[str, Any]:
    """What the numbers were computed from."""

    def values(name: str) -> list[Any]:
        return sorted({s.record[name] for s in samples.values() if name in s.record})

    return {
        "edm3d_version": edm3d.__version__,
        "samples": str(SAMPLES.value),
        "records": str(RECORDS.value),
        "test_cases": cases,
        "sampled_cases": len(samples),
        "masks": masks.name,
        "spacing_mm": info.spacing_mm,
        "split_by": info.split_by,
        "virtual_cohort": VIRTUAL_COHORT.value,
        **{name: values(name) for name in ("members", "nfe", "checkpoint_step", "seed")},
    }


def evaluate(samples_folder: Path, records: Path, out: Path) -> None:
    """Measures, summarises, draws and writes the report."""
    folder.check_free(out, overwrite=OVERWRITE.value)
    info, masks = read_dataset_info(records), mask_source()
    cases = read_cases(records, "test")
    samples, remarks = find_samples(samples_folder, cases)
    results, left_out = measure(cases, samples, masks)
    measured = tuple(results.values())
    groups = summarise(measured, lung_volume=not masks.is_given)
    facts = provenance_of(samples, len(cases), info, masks)
    report = Report(
        groups=groups,
        results=measured,
        pictures=draw(cases, samples, results, masks),
        methods=methods_text(facts, measured),
        remarks=(
            *remarks,
            *left_out,
            *data_remarks(info),
            *([NO_LUNG_VOLUME] if masks.is_given else []),
        ),
        virtual=VIRTUAL_COHORT.value,
    )
    path = folder.write_report(out, report, facts)
    print(page.text_summary(groups), f"\n{' '.join(report.remarks)}\n\n{path}", flush=True)


def _folder(flag: flags.FlagHolder) -> Path:
    if not flag.value:
        raise InputError(f"flag --{flag.name} is missing; give a folder")
    return Path(flag.value)


def main(_: list[str]) -> None:
    evaluate(_folder(SAMPLES), _folder(RECORDS), _folder(OUT))


if __name__ == "__main__":
    command.run(main)
