"""The figures of a report: the paper's Figures 2 and 3 and one case in three planes.

Every function returns a matplotlib figure; `png` turns one into bytes. Pictures are `[z, y, x]` in
HU; planes are shown as a radiologist sees them: the subject's right on the left, its head on top.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edm3d.comparison import CaseResult
from edm3d.metrics import agreement
from edm3d.metrics.aeration import NORMAL_HU, POOR_UPPER_HU
from edm3d.report.summary import (
    COPY,
    FEWEST_CASES,
    NORMALLY_AERATED,
    PEEP_BOTH,
    TO_EXPIRATION,
    TO_INSPIRATION,
    Quantity,
    in_both_orders,
    number,
    unit_of,
)
from edm3d.report.windows import DIFFERENCE_HU, WINDOW_HU

GREEN, RED = (0.1, 0.8, 0.2), (0.9, 0.15, 0.1)
MODEL_COLOUR, COPY_COLOUR = "#1f5fa8", "#9a9a9a"
DPI = 110
TOO_FEW = "too few cases for limits or a regression"


@dataclass(frozen=True)
class CasePicture:
    """Volumes `[z, y, x]` of one case with the lung mask that was measured in each."""

    title: str
    spacing_zyx_mm: tuple[float, float, float]
    prior_hu: np.ndarray
    original_hu: np.ndarray
    generated_hu: np.ndarray
    prior_mask: np.ndarray
    original_mask: np.ndarray
    generated_mask: np.ndarray


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def volume_by_phase(results: Sequence[CaseResult], quantity: Quantity) -> Figure:
    """The paper's Figure 2: (A) Bland-Altman and (B) regression of a volume by target phase."""
    groups = (TO_INSPIRATION, TO_EXPIRATION)
    chosen = [[r for r in results if g.holds(r)] for g in groups]
    return _agreement_figure(chosen, ["End-inspiration", "End-expiration"], quantity)


def normally_aerated_by_peep(results: Sequence[CaseResult]) -> Figure:
    """The paper's Figure 3A: agreement of the normally aerated lung at PEEP 8 and 13 from 3."""
    chosen = [r for r in results if PEEP_BOTH.holds(r)]
    return _agreement_figure([chosen], ["PEEP 3 to 8 and 13 cmH2O"], NORMALLY_AERATED)


def agreement_of_all(results: Sequence[CaseResult], quantity: Quantity) -> Figure:
    """Bland-Altman and regression of one quantity over every case."""
    return _agreement_figure([list(results)], ["All cases"], quantity)


def _agreement_figure(
    columns: Sequence[Sequence[CaseResult]], titles: Sequence[str], quantity: Quantity
) -> Figure:
    wide = len(columns) == 1  # one group: A beside B; several: A above B, as in the paper
    rows, across = (1, 2) if wide else (2, len(columns))
    figure = Figure(figsize=(5.4 * across, 4.5 * rows), layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False)
    draws: list[Callable] = [_bland_altman, _regression]
    for column, results, title in zip(axes if wide else axes.T, columns, titles, strict=True):
        for letter, axis, draw in zip("AB", column, draws, strict=True):
            found = draw(axis, results, quantity) if results else "no case"
            axis.set_title(f"({letter}) {title}\n{found}", fontsize=10)
            axis.grid(alpha=0.25)
    return figure


def _values(results: Sequence[CaseResult], quantity: Quantity) -> tuple[np.ndarray, ...]:
    """Original, generated and prior values, each `[n]`."""
    triples = [[quantity.of(a) for a in (r.original, r.generated, r.prior)] for r in results]
    return tuple(np.array(triples).T)


def _bland_altman(axis: Axes, results: Sequence[CaseResult], quantity: Quantity) -> str:
    """Draws differences against means; returns bias and limits in words."""
    original, generated, prior = _values(results, quantity)
    axis.scatter((original + prior) / 2, prior - original, s=14, c=COPY_COLOUR, label=COPY)
    mean, difference = (original + generated) / 2, generated - original
    axis.scatter(mean, difference, s=20, c=MODEL_COLOUR, label="generated")
    axis.axhline(0, color="black", lw=0.6)
    axis.set_xlabel(f"Mean of CT and original: {quantity.title} ({unit_of(quantity)})")
    axis.set_ylabel(f"CT - original ({quantity.unit})")
    axis.legend(fontsize=8)
    if len(results) < FEWEST_CASES:
        return TOO_FEW
    if in_both_orders(results):
        return "no bias or limits: pairs in both orders cancel"
    ba = agreement.bland_altman(generated, original)
    axis.axhline(ba.bias, color=RED, lw=1.4)
    for limit in (ba.lower, ba.upper):
        axis.axhline(limit, color=RED, lw=1.2, ls=":")
    return (
        f"bias {number(ba.bias)}, 95 % limits [{number(ba.lower)}, {number(ba.upper)}] "
        f"{quantity.unit}"
    )


def _regression(axis: Axes, results: Sequence[CaseResult], quantity: Quantity) -> str:
    """Draws generated against original values; returns the fitted line in words."""
    original, generated, prior = _values(results, quantity)
    axis.scatter(original, prior, s=14, c=COPY_COLOUR, label=COPY)
    axis.scatter(original, generated, s=20, c=MODEL_COLOUR, label="generated")
    ends = np.array([original.min(), original.max()])
    axis.plot(ends, ends, color="black", lw=0.6, label="identity")
    axis.set_xlabel(f"Original: {quantity.title} ({unit_of(quantity)})")
    axis.set_ylabel(f"CT ({unit_of(quantity)})")
    axis.legend(fontsize=8)
    if len(results) < FEWEST_CASES:
        return TOO_FEW
    if np.ptp(original) == 0:
        return "no regression: the original does not vary"
    fit = agreement.linear_regression(original, generated)
    axis.plot(ends, fit.slope * ends + fit.intercept, color=RED, lw=1.4)
    r2 = "undefined" if np.isnan(fit.r_squared) else f"{fit.r_squared:.3f}"
    sign = "+" if fit.intercept >= 0 else "−"
    return f"y = {fit.slope:.2f} x {sign} {number(abs(fit.intercept))}, R² = {r2}"


def aeration_overlay(picture: CasePicture) -> Figure:
    """The paper's Figure 3B: prior | original | generated, normal lung green, poor lung red.

    Of an ensemble the generated CT is its mean image.
    """
    columns = (
        ("Prior", picture.prior_hu, picture.prior_mask),
        ("Original", picture.original_hu, picture.original_mask),
        ("Generated", picture.generated_hu, picture.generated_mask),
    )
    where = _centre(picture.original_mask)
    figure = Figure(figsize=(11, 7.2), layout="constrained")
    figure.suptitle(f"{picture.title}: normally aerated green, poorly aerated red", fontsize=11)
    axes = figure.subplots(2, 3)
    for column, (name, hu, mask) in zip(axes.T, columns, strict=True):
        for plane, axis in zip((0, 1), column, strict=True):
            colours = _coloured(_slice(hu, plane, where), _slice(mask, plane, where) > 0)
            _show(axis, colours, plane, picture.spacing_zyx_mm)
        column[0].set_title(name, fontsize=11)
    return figure


def three_planes(picture: CasePicture) -> Figure:
    """prior | original | generated | generated - original in three planes, one window for all."""
    difference = picture.generated_hu.astype(np.float32) - picture.original_hu
    columns = (
        ("Prior", picture.prior_hu),
        ("Original (target)", picture.original_hu),
        ("Generated", picture.generated_hu),
        ("Generated - original", difference),
    )
    where = _centre(picture.original_mask)
    figure = Figure(figsize=(13, 9.6), layout="constrained")
    low, high = WINDOW_HU
    figure.suptitle(f"{picture.title}: window {low:.0f} to {high:.0f} HU", fontsize=11)
    axes = figure.subplots(3, 4)
    for column, (name, values) in zip(axes.T, columns, strict=True):
        scale = {"cmap": "gray", "clim": WINDOW_HU}
        if values is difference:
            scale = {"cmap": "RdBu_r", "clim": DIFFERENCE_HU}
        for plane, axis in enumerate(column):
            shown = _show(axis, _slice(values, plane, where), plane, picture.spacing_zyx_mm)
            shown.set(**scale)
        column[0].set_title(name, fontsize=11)
        if values is difference:
            figure.colorbar(shown, ax=column, label="HU", shrink=0.6)
    return figure


def _centre(mask: np.ndarray) -> tuple[int, int, int]:
    z, y, x = (int(np.median(i)) for i in np.nonzero(mask))
    return z, y, x


def _slice(volume: np.ndarray, plane: int, where: tuple[int, int, int]) -> np.ndarray:
    """The axial (0), coronal (1) or sagittal (2) slice through `where`."""
    return np.take(volume, where[plane], axis=plane)


def _show(axis: Axes, picture: np.ndarray, plane: int, spacing: tuple[float, float, float]):
    """Shows a slice: x to the right is the subject's left; coronal and sagittal with z upwards."""
    down, across = (s for i, s in enumerate(spacing) if i != plane)
    axis.set_axis_off()
    origin = "upper" if plane == 0 else "lower"
    return axis.imshow(picture, aspect=down / across, origin=origin, interpolation="nearest")


def _coloured(hu: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RGB of a slice with the aeration classes of its lung blended over the grey values."""
    low, high = WINDOW_HU
    rgb = np.repeat(np.clip((hu - low) / (high - low), 0, 1)[..., None], 3, axis=-1)
    normal = mask & (hu >= NORMAL_HU[0]) & (hu <= NORMAL_HU[1])
    poor = mask & (hu > NORMAL_HU[1]) & (hu <= POOR_UPPER_HU)
    for where, colour in ((normal, GREEN), (poor, RED)):
        rgb[where] = 0.55 * rgb[where] + 0.45 * np.array(colour)
    return rgb
