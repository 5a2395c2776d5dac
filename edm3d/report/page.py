"""The report as one HTML file that opens from disk: tables, figures, cases and how it was made.

Everything that comes from data is escaped; pictures are inlined. No script, no outside file.
"""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from edm3d.comparison import CaseResult
from edm3d.metrics.agreement import Regression
from edm3d.report.style import CSS
from edm3d.report.summary import (
    ALL,
    FEWEST_CASES,
    LUNG_VOLUME,
    NORMALLY_AERATED,
    PEEP_BOTH,
    QUANTITIES,
    TO_EXPIRATION,
    TO_INSPIRATION,
    Agreement,
    GroupSummary,
    MethodSummary,
    Quantity,
    count,
    number,
    unit_of,
    verdict,
)

# What the paper prints (section 3): bias [95 % limits] and R².
PAPER = {
    (TO_INSPIRATION.key, LUNG_VOLUME.key): "3 [−67, 73] ml; R² > 0.98",
    (TO_EXPIRATION.key, LUNG_VOLUME.key): "30 [−38, 100] ml; R² > 0.98",
    (PEEP_BOTH.key, NORMALLY_AERATED.key): "−1 [−8, 6] %; R² > 0.91",
}
PAPER_NOTE = (
    "The column 'Paper' holds the published numbers of ten real pigs. Other animals, settings and "
    "lung masks make other limits: the columns cannot be ranked against each other."
)
NOT_A_DEVICE = "edm3d is a research tool, not a medical device: no decision on a patient from it."
VIRTUAL = (
    "Virtual cohort: these animals are simulated. The report tests the method on known truth and "
    "is never evidence about real pigs or patients."
)
MISSING = "–"
DIRECTIONS = {TO_INSPIRATION.key: "to inspiration", TO_EXPIRATION.key: "to expiration"}
READING = (
    "Differences are method minus original. Bias (with its 95 % confidence interval in round "
    "brackets) and 95 % limits of agreement (bias ± 1.96 SD) count every case alike and are for "
    "comparison with the paper, which does so; scans of one animal are alike, so that this "
    "interval is too narrow. The bias by animal gives each animal the same weight, and its "
    "interval counts animals; the repeated-measures limits allow for several scans of one animal. "
    "r is Pearson's correlation, R² its square, CCC Lin's concordance; copying the prior can reach "
    "a high R² of the values. 'Change' judges the predicted change from the prior against the true "
    "one, among cases that go one way: slope 1 is the right size and a negative slope the wrong "
    "direction, and R² here is the share of the differences between the true changes that was "
    "predicted: 1 is perfect, 0 no better than giving every case the mean true change, below 0 "
    "worse than that."
)


@dataclass(frozen=True)
class Picture:
    """A figure of the page: file stem, PNG bytes and the words below it."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Report:
    """All that a page shows."""

    groups: tuple[GroupSummary, ...]
    results: tuple[CaseResult, ...]
    pictures: tuple[Picture, ...]
    methods: str
    remarks: tuple[str, ...]
    virtual: bool

    @property
    def quantities(self) -> list[Quantity]:
        """The scalars that were compared, in their order."""
        return _quantities(self.groups[0])


def render(report: Report) -> str:
    """The whole page as HTML text."""
    overall = next(g for g in report.groups if g.key == ALL.key)
    disclaimer = f"{VIRTUAL} {NOT_A_DEVICE}" if report.virtual else NOT_A_DEVICE
    body = [
        "<h1>Synthesised CT against original CT</h1>",
        f'<p class="verdict">{escape(verdict(overall))}</p>',
        _overview(report.groups),
        f'<p class="note">{escape(disclaimer)}</p>',
        *(f'<p class="note">{escape(remark)}</p>' for remark in report.remarks),
        "<h2>Figures</h2>",
        *map(_figure, report.pictures),
        "<h2>Agreement by protocol</h2>",
        f"<p>{escape(READING)}</p>",
        f'<p class="note">{escape(PAPER_NOTE)}</p>',
        *map(_group_section, report.groups),
        "<h2>Cases</h2>",
        _case_table(report.results, report.quantities),
        "<h2>Methods</h2>",
        f"<p>{escape(report.methods)}</p>",
    ]
    return _document("\n".join(body))


def text_summary(groups: Sequence[GroupSummary]) -> str:
    """The overview and the verdict for a terminal."""
    overall = next(g for g in groups if g.key == ALL.key)
    rows = [["", *(m.method for m in overall.methods)], *_overview_rows(groups)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]
    return "\n".join([*lines, "", verdict(overall)])


def _overview_rows(groups: Sequence[GroupSummary]) -> list[list[str]]:
    """Errors over all cases, and the change for each direction of the breath by itself."""
    overall = next(g for g in groups if g.key == ALL.key)
    rows = []
    for quantity in _quantities(overall):
        errors = [number(m.agreement[quantity.key].mean_absolute_error) for m in overall.methods]
        rows.append([f"{quantity.title}: mean absolute error ({quantity.unit})", *errors])
        for group in (g for g in groups if g.key in DIRECTIONS):
            changes = [_change(m.agreement[quantity.key]) for m in group.methods]
            rows.append([f"{quantity.title}: change {DIRECTIONS[group.key]}, slope; R²", *changes])
    maes = [number(m.lung_mae_hu) for m in overall.methods]
    return [*rows, ["Mean absolute error in the lung (HU)", *maes]]


def _overview(groups: Sequence[GroupSummary]) -> str:
    overall = next(g for g in groups if g.key == ALL.key)
    head = [f"{overall.title}", *(m.method.capitalize() for m in overall.methods)]
    return _table(head, _overview_rows(groups))


def _group_section(group: GroupSummary) -> str:
    head = [
        "Quantity",
        "Method",
        "Mean abs. error",
        "Bias (95 % CI)",
        "95 % limits",
        "Bias by animal (95 % CI)",
        "Repeated-measures limits",
        "Slope; intercept",
        "r; R²",
        "CCC",
        "Change: slope; R²",
        "Paper",
    ]
    rows = [
        _agreement_row(group, quantity, method)
        for quantity in _quantities(group)
        for method in group.methods
    ]
    found = [a for m in group.methods for a in m.agreement.values()]
    notes = dict.fromkeys(note for a in found for note in a.notes)  # each once, in order
    voxels = _table(["Method", *VOXEL_HEAD], [_voxel_row(m) for m in group.methods])
    size = f"{count(group.cases, 'case')}, {count(group.subjects, 'subject')}"
    noted = f'<p class="note">{escape(_sentences(notes))}</p>' if notes else ""
    return f"<h3>{escape(group.title)} ({size})</h3>{_table(head, rows)}{voxels}{noted}"


def _sentences(notes: Iterable[str]) -> str:
    return " ".join(f"{note[0].upper()}{note[1:]}." for note in notes)


VOXEL_HEAD = (
    "Lung MAE (HU)",
    "Lung RMSE (HU)",
    "Error of hyperaerated (% of volume)",
    "of normally aerated",
    "of poorly aerated",
    "of non-aerated",
)


def _voxel_row(method: MethodSummary) -> list[str]:
    values = (method.lung_mae_hu, method.lung_rmse_hu, *method.compartment_mae)
    return [method.method, *map(number, values)]


def _agreement_row(group: GroupSummary, quantity: Quantity, method: MethodSummary) -> list[str]:
    a = method.agreement[quantity.key]
    is_model = method is group.methods[0]
    return [
        f"{quantity.title} ({quantity.unit})" if is_model else "",
        method.method,
        number(a.mean_absolute_error),
        *_bias_and_limits(a),
        *_repeated(a),
        MISSING if a.regression is None else _line(a.regression),
        MISSING if a.regression is None else _correlation(a.regression),
        MISSING if a.concordance is None else number(a.concordance, 3),
        _change(a),
        PAPER.get((group.key, quantity.key), MISSING) if is_model else "",
    ]


def _bias_and_limits(a: Agreement) -> tuple[str, str]:
    if a.bland_altman is None:
        word = "too few" if a.n < FEWEST_CASES else MISSING
        return word, word
    ba = a.bland_altman
    return _with_ci(ba.bias, ba.bias_ci), _interval((ba.lower, ba.upper))


def _repeated(a: Agreement) -> tuple[str, str]:
    if a.repeated is None:
        return MISSING, MISSING
    by_animal = _with_ci(a.repeated.bias_of_means, a.repeated.bias_of_means_ci)
    return by_animal, _interval((a.repeated.lower, a.repeated.upper))


def _with_ci(value: float, ends: tuple[float, float]) -> str:
    return f"{number(value)} ({number(ends[0])}, {number(ends[1])})"


def _line(fit: Regression) -> str:
    return f"{number(fit.slope, 2)}; {number(fit.intercept)}"


def _correlation(fit: Regression) -> str:
    if math.isnan(fit.r):
        return "undefined"
    return f"{number(fit.r, 3)}; {number(fit.r_squared, 3)}"


def _change(a: Agreement) -> str:
    """Slope and coefficient of determination of the predicted change."""
    if a.change is None or a.change_r2 is None:
        return MISSING
    return f"{number(a.change.slope, 2)}; {number(a.change_r2, 2)}"


def _interval(ends: tuple[float, float]) -> str:
    return f"[{number(ends[0])}, {number(ends[1])}]"


def _quantities(group: GroupSummary) -> list[Quantity]:
    return [q for q in QUANTITIES if q.key in group.methods[0].agreement]


def _case_table(results: Sequence[CaseResult], quantities: Sequence[Quantity]) -> str:
    head = ["Case", "Subject", "Prior", "Target", "Lung MAE (HU)", "of the copy"]
    head += [f"{q.title}: original, generated, prior ({unit_of(q)})" for q in quantities]
    ordered = sorted(results, key=lambda r: -r.generated_error.mae)
    return _table(head, [_case_row(r, quantities) for r in ordered]) + (
        '<p class="note">Cases of the largest error in the lung come first.</p>'
    )


def _case_row(r: CaseResult, quantities: Sequence[Quantity]) -> list[str]:
    settings = [
        f"PEEP {v.peep_cmh2o:g}, V_T {v.tidal_volume_ml_kg:g} ml/kg, {v.phase}"
        for v in (r.prior_ventilation, r.target_ventilation)
    ]
    triples = [
        ", ".join(number(q.of(a)) for a in (r.original, r.generated, r.prior)) for q in quantities
    ]
    errors = [number(r.generated_error.mae), number(r.prior_error.mae)]
    place = f"{r.subject}, {r.stage}, {r.position}"
    return [r.case_id, place, *settings, *errors, *triples]


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; every cell is text and escaped here."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _document(body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>edm3d report</title><style>{CSS}</style></head><body><main>\n"
        f"{body}\n</main></body></html>\n"
    )
