"""Statistics of an evaluation: how model and copy-the-prior agree with the original CT, by group.

A difference is always `method - original`. The change is against the prior: copying it predicts no
change, so only the change tells whether a method has used its inputs (the values themselves differ
so much between subjects that a copy already correlates). Read next: `edm3d.report.page`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edm3d.comparison import CaseResult
from edm3d.metrics import agreement
from edm3d.metrics.aeration import Aeration
from edm3d.metrics.agreement import BlandAltman, Regression, RepeatedLimits

FEWEST_CASES = 3
BOTH_ORDERS = (
    "no bias and limits: most pairs occur in both orders, so that their differences cancel "
    "whatever the method does"
)
MODEL, COPY = "model", "copy the prior"


@dataclass(frozen=True)
class Quantity:
    """A scalar of one CT: key, what a reader sees, unit and how it is got."""

    key: str
    title: str
    unit: str
    of: Callable[[Aeration], float]


LUNG_VOLUME = Quantity("lung_volume_ml", "Lung volume", "ml", lambda a: a.lung_volume_ml)
NORMALLY_AERATED = Quantity(
    "normally_aerated_percent",
    "Normally aerated lung",
    "% points",
    lambda a: a.normally_aerated_percent,
)
GAS_VOLUME = Quantity("gas_volume_ml", "Gas volume", "ml", lambda a: a.gas_volume_ml)
QUANTITIES = (LUNG_VOLUME, NORMALLY_AERATED, GAS_VOLUME)


@dataclass(frozen=True)
class Group:
    """Cases of one question: a name for machines, a title for readers and the rule."""

    key: str
    title: str
    holds: Callable[[CaseResult], bool]


def _opposite_phase(phase: str) -> Callable[[CaseResult], bool]:
    def holds(r: CaseResult) -> bool:
        return "opposite_phase" in r.protocols and r.target_ventilation.phase == phase

    return holds


def _any_of(*protocols: str) -> Callable[[CaseResult], bool]:
    return lambda r: bool(set(protocols) & set(r.protocols))


TO_INSPIRATION = Group(
    "opposite_phase_inspiration",
    "Opposite phase: end-inspiration from end-expiration",
    _opposite_phase("inspiration"),
)
TO_EXPIRATION = Group(
    "opposite_phase_expiration",
    "Opposite phase: end-expiration from end-inspiration",
    _opposite_phase("expiration"),
)
PEEP_BOTH = Group(
    "peep_3_to_8_or_13",
    "PEEP 3 to 8 or 13 cmH2O",
    _any_of("peep_3_to_8", "peep_3_to_13"),
)
ALL = Group("all", "All cases", lambda r: True)
GROUPS = (
    TO_INSPIRATION,
    TO_EXPIRATION,
    Group("peep_3_to_8", "PEEP 3 to 8 cmH2O", _any_of("peep_3_to_8")),
    Group("peep_3_to_13", "PEEP 3 to 13 cmH2O", _any_of("peep_3_to_13")),
    PEEP_BOTH,
    ALL,
)


@dataclass(frozen=True)
class Agreement:
    """One method's agreement with the original in one quantity and group; None: not computable.

    `change` regresses the method's change from the prior on the true change, and `change_r2` is
    the coefficient of determination of that prediction. Both are None where a group pools
    directions: knowing the sign of each change would then score above 0.99. Bias and limits are
    None where most pairs occur in both orders: they cancel, whatever the method does.
    """

    n: int
    mean_absolute_error: float
    bland_altman: BlandAltman | None
    repeated: RepeatedLimits | None
    regression: Regression | None
    concordance: float | None
    change: Regression | None
    change_r2: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MethodSummary:
    """One method in one group: agreement by quantity key, voxel errors, compartment errors.

    `compartment_mae` holds the mean absolute errors of hyper, normal, poor, non in % of volume.
    """

    method: str
    agreement: dict[str, Agreement]
    lung_mae_hu: float
    lung_rmse_hu: float
    compartment_mae: tuple[float, float, float, float]


@dataclass(frozen=True)
class GroupSummary:
    """A group's size and its methods side by side."""

    key: str
    title: str
    cases: int
    subjects: int
    methods: tuple[MethodSummary, ...]


def summarise(results: Sequence[CaseResult], *, lung_volume: bool) -> tuple[GroupSummary, ...]:
    """All groups that hold a case; without `lung_volume` that quantity is left out."""
    quantities = [q for q in QUANTITIES if lung_volume or q is not LUNG_VOLUME]
    chosen = ((group, [r for r in results if group.holds(r)]) for group in GROUPS)
    return tuple(_group(group, members, quantities) for group, members in chosen if members)


def measures_of(result: CaseResult, method: str) -> Aeration:
    """The aeration a method claims for the target."""
    return result.generated if method == MODEL else result.prior


def _group(
    group: Group, results: Sequence[CaseResult], quantities: Sequence[Quantity]
) -> GroupSummary:
    one = group is not ALL
    methods = tuple(_method(results, m, quantities, one_question=one) for m in (MODEL, COPY))
    subjects = len({r.subject for r in results})
    return GroupSummary(group.key, group.title, len(results), subjects, methods)


def _method(
    results: Sequence[CaseResult],
    method: str,
    quantities: Sequence[Quantity],
    *,
    one_question: bool,
) -> MethodSummary:
    errors = [r.generated_error if method == MODEL else r.prior_error for r in results]
    hyper, normal, poor, non = _compartment_mae(results, method)
    return MethodSummary(
        method=method,
        agreement={q.key: agree(results, method, q, one_question=one_question) for q in quantities},
        lung_mae_hu=float(np.mean([e.mae for e in errors])),
        lung_rmse_hu=float(np.mean([e.rmse for e in errors])),
        compartment_mae=(hyper, normal, poor, non),
    )


def _compartment_mae(results: Sequence[CaseResult], method: str) -> list[float]:
    def shares(a: Aeration) -> list[float]:
        c = a.volume_percent
        return [c.hyper, c.normal, c.poor, c.non]

    found = np.array([shares(measures_of(r, method)) for r in results])
    true = np.array([shares(r.original) for r in results])
    return np.abs(found - true).mean(axis=0).tolist()


def in_both_orders(results: Sequence[CaseResult]) -> bool:
    """Whether most pairs of scans occur with either scan as the prior."""
    pairs = {(r.subject, r.prior_scan, r.target_scan) for r in results}
    mirrored = sum((subject, b, a) in pairs for subject, a, b in pairs)
    return 2 * mirrored > len(pairs)


def agree(
    results: Sequence[CaseResult], method: str, quantity: Quantity, *, one_question: bool = True
) -> Agreement:
    """Agreement of a method's `quantity` with the original's over `results`.

    `one_question`: the results belong to one protocol, so that their changes may be compared.
    """
    original = np.array([quantity.of(r.original) for r in results])
    prior = np.array([quantity.of(r.prior) for r in results])
    found = np.array([quantity.of(measures_of(r, method)) for r in results])
    error = agreement.mean_absolute_error(found, original)
    if len(results) < FEWEST_CASES:
        note = f"too few cases ({len(results)}) for limits of agreement or a regression"
        return Agreement(len(results), error, None, None, None, None, None, None, (note,))
    limits, repeated, notes = _limits(results, found, original)
    regression, change = agreement.linear_regression(original, found), None
    if np.isnan(regression.r):
        notes.append("correlation undefined: the values do not vary")
    if one_question:
        change = agreement.linear_regression(original - prior, found - prior)
        if np.ptp(original - prior) == 0:
            notes.append("slope and R² of the change undefined: the true change does not vary")
    else:
        notes.append("the change is judged within each protocol, where all cases go one way")
    return Agreement(
        n=len(results),
        mean_absolute_error=error,
        bland_altman=limits,
        repeated=repeated,
        regression=regression,
        concordance=agreement.concordance(found, original),
        change=change,
        change_r2=change and agreement.determination(found - prior, original - prior),
        notes=tuple(notes),
    )


def _limits(
    results: Sequence[CaseResult], found: np.ndarray, original: np.ndarray
) -> tuple[BlandAltman | None, RepeatedLimits | None, list[str]]:
    if in_both_orders(results):
        return None, None, [BOTH_ORDERS]
    repeated, notes = _repeated(found, original, [r.subject for r in results])
    return agreement.bland_altman(found, original), repeated, notes


def _repeated(
    found: np.ndarray, original: np.ndarray, subjects: list[str]
) -> tuple[RepeatedLimits | None, list[str]]:
    if len(set(subjects)) < 2:
        return None, ["one subject only: no limits for repeated measures"]
    if len(set(subjects)) == len(subjects):
        return None, ["one case a subject: the limits need no correction for repeated measures"]
    return agreement.repeated_measures_limits(found, original, subjects), []


def verdict(summary: GroupSummary) -> str:
    """One plain sentence: is the model nearer to the original than a copy of the prior?"""
    model, copy = summary.methods
    key = LUNG_VOLUME.key if LUNG_VOLUME.key in model.agreement else GAS_VOLUME.key
    name = "lung-volume" if key == LUNG_VOLUME.key else "gas-volume"
    volume = [m.agreement[key].mean_absolute_error for m in (model, copy)]
    voxel = [model.lung_mae_hu, copy.lung_mae_hu]
    better = [bool(pair[0] < pair[1]) for pair in (volume, voxel)]
    opening = {
        (True, True): "The model is nearer to the original CT than copying the prior",
        (False, False): "The model is not better than copying the prior",
    }.get((better[0], better[1]), "The model beats copying the prior on one of two counts only")
    return (
        f"{opening}: mean absolute {name} error {volume[0]:.0f} ml against {volume[1]:.0f} ml, "
        f"and mean absolute error in the lung {voxel[0]:.0f} HU against {voxel[1]:.0f} HU "
        f"({count(summary.cases, 'case')} of {count(summary.subjects, 'subject')})."
    )


def count(n: int, noun: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def number(value: float, digits: int | None = None) -> str:
    """A number as printed: whole from 100, one digit from 10, else two; a true minus sign."""
    if math.isnan(value):
        return "undefined"
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}"
    return text[1:] if float(text) == 0 and text[0] == "-" else text.replace("-", "−")


def unit_of(quantity: Quantity) -> str:
    """The unit of a value, where `quantity.unit` is that of a difference."""
    return "%" if quantity is NORMALLY_AERATED else quantity.unit
