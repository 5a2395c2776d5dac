"""Statistics over cases, the overlay's colours and the words of the report."""

import dataclasses

import numpy as np
import pytest

from edm3d.comparison import CaseResult, representative
from edm3d.data.cases import Ventilation
from edm3d.metrics import agreement
from edm3d.metrics.aeration import Aeration, Compartments
from edm3d.metrics.image import ImageError
from edm3d.report import figures, methods, page, summary
from edm3d.report.summary import COPY, LUNG_VOLUME, MODEL
from tests.data.test_cases import INFO


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
        prior_scan=f"{prior}",
        target_scan=f"{original}",
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
    assert copy.change is not None and copy.change.slope == 0
    # changes of 250..310 have a mean square of 280² + 500 and a variance of 500
    assert copy.change_r2 == pytest.approx(1 - (280**2 + 500) / 500)
    assert model.change is not None
    assert (model.change.slope, model.change.r_squared) == pytest.approx((0.5, 1.0))
    # half of each deviation, and 5 ml less in the mean: 1 - (125 + 25) / 500
    assert model.change_r2 == pytest.approx(0.7)


def both_directions(predict) -> list[CaseResult]:
    """The cohort and the way back; `predict` gives the generated change of a true one."""
    there = cohort()
    turned = [dataclasses.replace(r, prior=r.original, original=r.prior) for r in there]
    back = [
        dataclasses.replace(r, prior_scan=r.target_scan, target_scan=r.prior_scan) for r in turned
    ]
    settings = Ventilation(5.0, 8.0, "expiration")
    back = [dataclasses.replace(r, target_ventilation=settings) for r in back]
    return [dataclasses.replace(r, generated=aeration(predict(r))) for r in (*there, *back)]


def true_change(r: CaseResult) -> float:
    return r.original.lung_volume_ml - r.prior.lung_volume_ml


def headline(results: list[CaseResult]) -> dict[str, tuple[float, float]]:
    """The page's headline cells of the model's change, as numbers by row."""
    rows = page._overview_rows(summary.summarise(results, lung_volume=True))
    cells = {title: cell for title, cell, _ in rows if "Lung volume: change" in title}
    return {t: tuple(float(n.replace("−", "-")) for n in c.split("; ")) for t, c in cells.items()}


def test_a_constant_by_phase_earns_no_r2_of_the_change_and_the_opposite_is_punished() -> None:
    constant = headline(
        both_directions(lambda r: r.prior.lung_volume_ml + 280 * np.sign(true_change(r)))
    )
    opposite = headline(both_directions(lambda r: r.prior.lung_volume_ml - true_change(r)))
    right = headline(both_directions(lambda r: r.original.lung_volume_ml))
    assert len(constant) == 2  # each direction by itself
    assert list(constant.values()) == [(0, 0), (0, 0)]
    assert all(slope == -1 and r2 < -100 for slope, r2 in opposite.values())
    assert list(right.values()) == [(1, 1), (1, 1)]


def test_pairs_in_both_orders_get_no_bias_that_cancels() -> None:
    mirrored = both_directions(lambda r: r.prior.lung_volume_ml)
    together = summary.summarise(mirrored, lung_volume=True)[-1]
    found = together.methods[0].agreement["lung_volume_ml"]
    assert (found.bland_altman, found.repeated, found.change, found.change_r2) == (None,) * 4
    assert found.mean_absolute_error == pytest.approx(280)
    assert "both orders" in found.notes[0] and "within each protocol" in found.notes[1]
    assert "too few" not in page._group_section(together)
    (axis, _) = figures.agreement_of_all(mirrored, LUNG_VOLUME).axes
    assert "pairs in both orders cancel" in axis.get_title() and "bias -" not in axis.get_title()
    to_inspiration = summary.summarise(mirrored, lung_volume=True)[0]
    bias = to_inspiration.methods[1].agreement["lung_volume_ml"].bland_altman
    assert bias is not None and bias.bias == pytest.approx(-280)


def test_repeated_measures_reach_the_page_as_they_were_computed() -> None:
    rows = cohort()
    values = [[a.lung_volume_ml for a in (r.generated, r.original)] for r in rows]
    found, original = np.array(values).T
    expected = agreement.repeated_measures_limits(found, original, [r.subject for r in rows])
    assert summary.agree(rows, MODEL, LUNG_VOLUME).repeated == expected
    group = summary.summarise(rows, lung_volume=True)[0]
    section = page._group_section(group)
    low, high = (summary.number(v) for v in (expected.lower, expected.upper))
    assert f"<td>[{low}, {high}]</td>" in section
    centre, (a, b) = expected.bias_of_means, expected.bias_of_means_ci
    assert (
        f"<td>{summary.number(centre)} ({', '.join(map(summary.number, (a, b)))})</td>" in section
    )


def test_the_page_prints_pearsons_r_beside_its_square() -> None:
    group = summary.summarise(cohort(), lung_volume=True)[0]
    fit = group.methods[0].agreement["lung_volume_ml"].regression
    assert fit is not None and '<th scope="col">r; R²</th>' in page._group_section(group)
    assert f"<td>{fit.r:.3f}; {fit.r_squared:.3f}</td>" in page._group_section(group)


def test_figures_print_numbers_as_the_page_does_and_say_why_a_line_is_missing() -> None:
    rows = [result(f"{i}", 2000.0 + i, 3000.0 + 7 * i, 3234.5 + i, mae=9.0 + i) for i in range(4)]
    bias, line = figures.agreement_of_all(rows, LUNG_VOLUME).axes
    assert "bias 1234" in bias.get_title() and "e+" not in bias.get_title() + line.get_title()
    assert bias.get_ylabel() == "CT - original (ml)"
    assert [t.get_text() for t in bias.get_legend().get_texts()] == [COPY, "generated"]
    flat = [result(f"{i}", 2000.0, 1500.0 + i, 1900.0 + i) for i in range(4)]
    assert "does not vary" in figures.agreement_of_all(flat, LUNG_VOLUME).axes[1].get_title()


def test_reports_state_what_their_records_are() -> None:
    part = dataclasses.replace(INFO, least_coverage={"test": 0.61, "train": 0.99}, split_by="pair")
    remarks = methods.data_remarks(part)
    assert methods.SHARED_SUBJECTS in remarks and len(remarks) == 2
    assert "test records covers only 61%" in remarks[1]
    assert methods.data_remarks(INFO) == []


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
