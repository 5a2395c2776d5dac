"""The words of a report about how its numbers were made."""

from collections.abc import Sequence
from typing import Any

from edm3d.comparison import CaseResult

MASK_WORDS = {
    "classical": "thresholds and closing (loses much of consolidated lung at the chest wall), "
    "applied to each CT by itself",
    "given": "the exact masks stored with the records; every CT of a case is measured in the "
    "target's own mask",
    "lungmask": "the lungmask network, applied to each CT by itself",
}
NO_LUNG_VOLUME = (
    "Lung volume is left out: with --masks=given every CT of a case is measured inside the "
    "target's own mask, so all would have the same lung volume."
)


def methods_text(facts: dict[str, Any], results: Sequence[CaseResult]) -> str:
    """The methods paragraph of the report."""

    def listed(name: str) -> str:
        return " or ".join(map(str, facts[name])) or "an unknown number of"

    subjects = len({r.subject for r in results})
    regions = " or ".join(sorted({r.mae_region for r in results}))
    split = (
        ""
        if facts["split_by"] == "subject"
        else (" Training and test pairs share subjects, so nothing here holds for new subjects.")
    )
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
        f"Altman 2007 by subject. edm3d {facts['edm3d_version']}.{split}"
    )
