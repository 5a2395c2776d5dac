"""What an evaluation measures of one case: original, prior and generated CT under one mask source.

Shape key: volumes and masks `[z, y, x]` on the case's grid, HU. Read next: `edm3d.report.summary`
(statistics over cases), `edm3d.evaluate` (the command).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edm3d.data.cases import Case, Ventilation
from edm3d.data.protocols import protocols_of
from edm3d.data.volumes import Grid, read_ct, same_grid
from edm3d.errors import InputError
from edm3d.metrics import aeration, image
from edm3d.metrics.aeration import Aeration
from edm3d.metrics.image import ImageError

STORED_REGION = "the lung mask of the target stored with the records"
LungOperator = Callable[[np.ndarray, Grid], np.ndarray]


class NoLungError(InputError):
    """A CT in which the mask source finds no lung: its case cannot be measured."""


@dataclass(frozen=True)
class MaskSource:
    """Where lung masks come from; without an operator, they are those stored with the records."""

    name: str
    operator: LungOperator | None = None

    @property
    def is_given(self) -> bool:
        return self.operator is None


@dataclass(frozen=True)
class CaseResult:
    """One case, measured; `mae_region` names the lung in which the voxel errors were taken."""

    case_id: str
    subject: str
    prior_scan: str
    target_scan: str
    stage: str
    position: str
    prior_ventilation: Ventilation
    target_ventilation: Ventilation
    protocols: tuple[str, ...]
    members: int
    original: Aeration
    prior: Aeration
    generated: Aeration
    prior_error: ImageError
    generated_error: ImageError
    mae_region: str


def compare_case(case: Case, folder: Path, masks: MaskSource, *, members: int) -> CaseResult:
    """Measures one case against its sample in `folder` (`generated.nii.gz`, `members/`).

    Aeration of an ensemble is the mean of its members' values; voxel errors are the mean image's.

    Raises:
        InputError: the sample is unreadable, not finite or on another grid.
        NoLungError: a CT of the case has no lung.
    """
    assert case.target_hu is not None
    generated = read_generated(case, folder / "generated.nii.gz")
    original_mask = lung_mask(case.target_hu, case, masks, "original")
    region, region_name = error_region(case, original_mask)
    volumes = [generated] if members == 1 else _members(case, folder, members)
    values = [measured(hu, case, masks, "generated") for hu in volumes]
    return CaseResult(
        case_id=case.case_id,
        subject=case.subject,
        prior_scan=case.prior_scan,
        target_scan=case.target_scan,
        stage=case.stage,
        position=case.position,
        prior_ventilation=case.prior_ventilation,
        target_ventilation=case.target_ventilation,
        protocols=protocols_of(case),
        members=len(values),
        original=aeration.measure(case.target_hu, original_mask, case.grid.spacing_zyx_mm),
        prior=measured(case.prior_hu, case, masks, "prior"),
        generated=aeration.mean_over_members(values),
        prior_error=image.image_error(case.prior_hu, case.target_hu, mask=region),
        generated_error=image.image_error(generated, case.target_hu, mask=region),
        mae_region=region_name,
    )


def measured(volume_hu: np.ndarray, case: Case, masks: MaskSource, what: str) -> Aeration:
    """Aeration of one CT of the case; `what` names it in an error."""
    mask = lung_mask(volume_hu, case, masks, what)
    return aeration.measure(volume_hu, mask, case.grid.spacing_zyx_mm)


def lung_mask(volume_hu: np.ndarray, case: Case, masks: MaskSource, what: str) -> np.ndarray:
    """The lung of one CT of the case: by the operator, or as stored with the records.

    No mask is stored of a generated CT: it is measured in the target's, the prior in its own.
    """
    stored = case.prior_lung_mask if what == "prior" else case.target_lung_mask
    mask = stored if masks.operator is None else masks.operator(volume_hu, case.grid)
    if mask is None:
        of = "prior" if what == "prior" else "target"
        raise InputError(
            f"case {case.case_id} has no lung mask of its {of} in the records; "
            "use --masks=classical, or build the records from a manifest with every lung_mask"
        )
    if not mask.any():
        raise NoLungError(f"no lung in the {what} CT of {case.case_id} by {masks.name} masks")
    return mask


def error_region(case: Case, original_mask: np.ndarray) -> tuple[np.ndarray, str]:
    """The lung in which voxel errors are taken, and its name: the target's stored mask if any."""
    if case.target_lung_mask is not None and case.target_lung_mask.any():
        return case.target_lung_mask, STORED_REGION
    return original_mask, "the mask of the original CT by the mask source"


def read_generated(case: Case, path: Path) -> np.ndarray:
    """A generated CT in HU, checked to lie on the case's grid."""
    volume = read_ct(path)
    if not same_grid(volume.grid, case.grid):
        raise InputError(
            f"grid of {path} is {volume.grid.shape_zyx} voxels and not that of its record "
            f"({case.grid.shape_zyx}, or another place); sample from these records again"
        )
    return volume.values


def _members(case: Case, folder: Path, count: int) -> Iterator[np.ndarray]:
    """The first `count` members: an interrupted run with more of them may have left others."""
    for member in range(count):
        yield read_generated(case, folder / "members" / f"{member:03}.nii.gz")


def representative(results: Sequence[CaseResult]) -> CaseResult:
    """The case of median voxel error in the lung: neither the best picture nor the worst."""
    ordered = sorted(results, key=lambda r: (r.generated_error.mae, r.case_id))
    return ordered[(len(ordered) - 1) // 2]
