"""Which films are no such view of their subject, as far as projections can tell.

Simulated bedside films (noise, scatter, unknown exposure, turned by up to 3 degrees) of three
humans and twelve virtual pigs, against their own CT: a film hung rightly always correlated better
than mirrored (by 0.002 or more), upside down (0.03) or against the other view (0.1). The
correlation itself tells a subject from others only where their bodies differ; fine structure does
so in most frontal views (own 0.67 and above, another subject's 0.63 and below), not in lateral
ones.
"""

from collections.abc import Iterator

from data_prep.dataset_check.films import FilmSeen
from data_prep.dataset_check.judge import FATAL, WARNING, Finding, scan_name
from data_prep.dataset_check.measure import Seen
from edm3d.data.film_match import LOW_CORRELATION

FAR = 0.1  # more correlation than this otherwise, and the film cannot be what it is called
CLEARLY = 0.005  # more correlation than this otherwise
LOW_DETAIL = 0.6


def findings_of_films(seen: Seen) -> list[Finding]:
    """What is wrong with the films of one scan."""
    name = scan_name(seen.scan)
    return [
        Finding(level, "film", (seen.scan.row,), name, text)
        for film in seen.films
        for level, text in _faults(film, own_ct=film.of_ct == name)
    ]


def _faults(film: FilmSeen, own_ct: bool) -> Iterator[tuple[str, str]]:
    """At most one: what explains most comes first."""
    hint = _hint(film)
    if film.fault:
        yield FATAL, film.fault + (f" (it fits {hint})" if hint else "")
    elif film.fit is None:
        return
    elif hint:
        far = max(film.otherwise.values()) > film.fit.correlation + FAR
        yield (
            FATAL if far else WARNING,
            f"the {film.view} film fits {film.of_ct} better {hint}; is it hung or named wrongly, "
            "or another subject's?",
        )
    elif film.fit.correlation < LOW_CORRELATION:
        yield (
            WARNING,
            f"the {film.view} film correlates {film.fit.correlation:.2f} with the projection of "
            f"{film.of_ct}, below {LOW_CORRELATION:g}; is it of this subject, view and scale?",
        )
    elif own_ct and film.view == "pa" and film.fit.detail_correlation < LOW_DETAIL:
        yield (
            WARNING,
            f"ribs and diaphragm of the pa film are not those of {film.of_ct} (correlation in "
            f"detail {film.fit.detail_correlation:.2f}, below {LOW_DETAIL:g}); is it another "
            "subject's?",
        )


def _hint(film: FilmSeen) -> str:
    """How else the film fits better, if it does."""
    if not film.otherwise:
        return ""
    name, best = max(film.otherwise.items(), key=lambda item: item[1])
    given = film.fit.correlation if film.fit else 0.0
    far = film.fit is not None and best > given + FAR  # however low both are
    better = far or best > max(given + CLEARLY, LOW_CORRELATION)
    instead = f" instead of {given:.2f}" if film.fit else ""
    return f"{name}: correlation {best:.2f}{instead}" if better else ""
