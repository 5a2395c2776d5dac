"""Statistics over cases, the overlay's colours and the words of the report."""

import numpy as np
import pytest

from edm3d.comparison import CaseResult, representative
from edm3d.data.cases import Ventilation
from edm3d.metrics.aeration import Aeration, Compartments
from edm3d.metrics.image import ImageError
from edm3d.report import figures, summary
from edm3d.report.summary import COPY, LUNG_VOLUME, MODEL


def aeration(lung_ml: float) -> Aeration:
    shares = Compartments(0.0, 60.0, 30.0, 10.0)
    return Aeration(lung_ml, lung_ml / 2, lung_ml / 2, 60.0, shares, shares)


def result(
    subject: str, original: float, prior: float, generated: float, *, mae: float = 50.0
) -> CaseResult:
    settings = [Ventilation(5.0, 8.0, phase) for phase in ("expiration", "inspiration")]
    return CaseResult(
        case_id=f"{subject}-{original}",
        subject=subject,
        stage="early",
        position="prone",
        prior_ventilation=settings[0],
        target_ventilation=settings[1],
        protocols=("opposite_phase",),
        members=1,
        original=aeration(original),
        prior=aeration(prior),
        generated=aeration(generated),
        prior_error=ImageError(9, 100.0, 130.0, 30.0, 4095.0),
        generated_error=ImageError(9, mae, 70.0, 35.0, 4095.0),
        mae_region="exact",
    )


def cohort() -> list[CaseResult]:
    """Two pigs of very different size; breaths of 250 to 310 ml, half of them reproduced."""
    rows = []
    for subject, size in (("a", 700.0), ("b", 2100.0)):
        for i, breath in enumerate((250.0, 270.0, 290.0, 310.0)):
            prior = size + 30 * ((i * 7) % 4)
            rows.append(result(subject, prior + breath, prior, prior + breath / 2 + 135))
    return rows


def test_r2_of_the_values_flatters_a_copy_and_r2_of_the_change_does_not() -> None:
    copy = summary.agree(cohort(), COPY, LUNG_VOLUME)
    model = summary.agree(cohort(), MODEL, LUNG_VOLUME)
    assert copy.regression is not None and copy.regression.r_squared > 0.99
    assert copy.bland_altman is not None and copy.bland_altman.bias == pytest.approx(-280)
    assert copy.change is not None and np.isnan(copy.change.r_squared)
    assert model.change is not None
    assert (model.change.slope, model.change.r_squared) == pytest.approx((0.5, 1.0))


def test_statements_replace_what_cannot_be_computed() -> None:
    def notes(results: list[CaseResult]) -> tuple[str, ...]:
        return summary.agree(results, MODEL, LUNG_VOLUME).notes

    rows = cohort()
    assert notes(rows) == ()
    assert "too few cases (2)" in notes(rows[:2])[0]
    assert "one subject only" in notes(rows[:4])[0]
    single = [result(s, 900.0 + i, 800.0, 900.0) for i, s in enumerate("abc")]
    assert "one case a subject" in notes(single)[0]
    assert any("do not vary" in note for note in notes(single))


def test_groups_follow_the_protocols_and_empty_ones_are_left_out() -> None:
    found = summary.summarise(cohort(), lung_volume=True)
    assert [(g.key, g.cases, g.subjects) for g in found] == [
        ("opposite_phase_inspiration", 8, 2),
        ("all", 8, 2),
    ]
    without = summary.summarise(cohort(), lung_volume=False)
    assert all(LUNG_VOLUME.key not in m.agreement for g in without for m in g.methods)


@pytest.mark.parametrize(
    ("generated", "mae", "words"),
    [
        (1010.0, 50.0, "nearer to the original CT than copying"),
        (1010.0, 150.0, "on one of two counts only"),
        (600.0, 150.0, "not better than copying"),
    ],
)
def test_the_verdict_says_who_is_nearer(generated: float, mae: float, words: str) -> None:
    rows = [result("a", 1000.0, 800.0, generated, mae=mae)]
    sentence = summary.verdict(summary.summarise(rows, lung_volume=True)[-1])
    assert words in sentence and "1 case of 1 subject" in sentence


def test_the_pictured_case_is_the_median_one() -> None:
    rows = [
        result(s, 1000.0, 800.0, 900.0, mae=m) for s, m in zip("abc", (9, 500, 70), strict=True)
    ]
    assert representative(rows).subject == "c"


def test_overlay_colours_normal_green_poor_red_and_nothing_else() -> None:
    hu = np.array([[-950, -900, -500, -499, -100, -99, -700]])
    mask = np.array([[1, 1, 1, 1, 1, 1, 0]], bool)
    rgb = figures._coloured(hu, mask)[0]
    green, red = rgb[:, 1] > rgb[:, 0], rgb[:, 0] > rgb[:, 1]
    assert green.tolist() == [False, True, True, False, False, False, False]
    assert red.tolist() == [False, False, False, True, True, False, False]


def test_figures_stand_on_one_case_and_on_none_of_a_phase() -> None:
    few = [result("a", 1000.0, 800.0, 900.0)]
    drawn = figures.png(figures.volume_by_phase(few, LUNG_VOLUME))
    assert drawn.startswith(b"\x89PNG")
    titles = [a.get_title() for a in figures.volume_by_phase(cohort(), LUNG_VOLUME).axes]
    assert "bias" in titles[0] and "no case" in titles[1]
