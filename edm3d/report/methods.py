"""The words of a report about how its numbers were made."""

from collections.abc import Sequence
from typing import Any

from edm3d.comparison import STORED_REGION, CaseResult
from edm3d.data.cases import DatasetInfo

MASK_WORDS = {
    "classical": "thresholds and closing (loses much of consolidated lung at the chest wall), "
    "applied to each CT by itself",
    "given": "the lung masks stored with the records; original and generated CT are measured in "
    "the target's mask, the prior in its own",
    "lungmask": "the lungmask network, applied to each CT by itself",
}
NO_LUNG_VOLUME = (
    "Lung volume is left out: with --masks=given the generated CT is measured inside the target's "
    "own mask, so it would have the original's lung volume."
)
SHARED_SUBJECTS = "Training and test pairs share subjects, so nothing here holds for new subjects."
EXACT = "The stored masks are exact, since the animals are simulated."
NOTEWORTHY_COVERAGE = 0.95


def data_remarks(info: DatasetInfo) -> list[str]:
    """What a reader must know of the records before the numbers."""
    remarks = [] if info.split_by == "subject" else [SHARED_SUBJECTS]
    for split, least in info.least_coverage.items():
        if least < NOTEWORTHY_COVERAGE:
            remarks.append(
                f"A target of the {split} records covers only {least:.0%} of its prior's volume; "
                "the rest counts as air."
            )
    return remarks


def methods_text(facts: dict[str, Any], results: Sequence[CaseResult]) -> str:
    """The methods paragraph of the report."""

    def listed(name: str) -> str:
        return " or ".join(map(str, facts[name])) or "an unknown number of"

    subjects = len({r.subject for r in results})
    regions = " or ".join(sorted({r.mae_region for r in results}))
    stored = facts["masks"] == "given" or STORED_REGION in regions
    exact = f" {EXACT}" if stored and facts["virtual_cohort"] else ""
    return (
        f"{len(results)} prior/target pairs of {subjects} test subjects were evaluated, of "
        f"{facts['test_cases']} test pairs in the records ({facts['sampled_cases']} sampled), on "
        f"voxels of {facts['spacing_mm']:g} mm. Each CT was generated as the mean of "
        f"{listed('members')} diffusion samples with {listed('nfe')} denoiser calls each, from the "
        f"checkpoint after {listed('checkpoint_step')} updates. Lung masks: {facts['masks']}, "
        f"{MASK_WORDS[facts['masks'].split()[0]]}. Lung volume is the volume of the mask; normally "
        "aerated lung is the share of it within [-900, -500] HU; gas volume is the sum of -HU/1000 "
        "over the lung. Of an ensemble these are averaged over its members and not taken from the "
        f"mean image; voxel errors are those of the mean image, in: {regions}. Limits of agreement "
        "after Bland and Altman 1986, for repeated measures with varying truth after Bland and "
        f"Altman 2007 by subject. edm3d {facts['edm3d_version']}.{exact}"
    )
