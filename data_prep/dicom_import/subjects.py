"""Whether the PatientIDs of a tree tell its subjects apart, judged by digests alone.

Anonymising often writes one PatientID into every file, which makes one subject of many; pairs would
then mix them. Nothing of an identifier is kept or printed: placeholders are known by their digests.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

from data_prep.dicom_import.tree import Group

_WORDS = (
    *("anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified", "de-identified"),
    *("unknown", "none", "null", "na", "n/a", "noname", "no name", "nobody", "removed", "hidden"),
    *("patient", "subject", "animal", "pig", "dummy", "test", "id", "x", "xx", "xxx", "xxxx"),
    *("0", "00", "000", "0000", "00000", "000000", "00000000", "-", "--", "?", ".", "*"),
)
_SPELLED = {spelled for w in _WORDS for spelled in (w, w.upper(), w.title(), w.capitalize())}
PLACEHOLDERS = frozenset(hashlib.sha256(word.encode()).hexdigest() for word in _SPELLED)


def _contradicts(groups: Sequence[Group]) -> bool:
    """Whether series of one PatientID state two birth dates or two sexes."""
    births, sexes = {g.birth for g in groups} - {""}, {g.sex for g in groups} - {""}
    return len(births) > 1 or len(sexes) > 1


def _suspicions(patient: str, groups: Sequence[Group], only: bool) -> Iterator[str]:
    """Why the PatientID that several studies share may be of several subjects."""
    if _contradicts(groups):
        yield "birth dates or sexes differ"
    if patient in PLACEHOLDERS:
        yield "it is a placeholder"
    elif only:
        yield "no other one is in the tree"


def warnings_of(groups: Sequence[Group]) -> list[str]:
    """A line each: for PatientIDs that look as if anonymising had made them, and for missing ones.

    A PatientID is suspected where studies of different StudyInstanceUID share it and their birth
    dates or sexes differ, or it is a usual placeholder, or the whole tree has no other.
    """
    by_patient: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_patient[group.patient].append(group)
    nameless = {g.study or g.series for g in by_patient.pop("", [])}
    only = len(by_patient) == 1 and not nameless
    shared, reasons = 0, set()
    for patient, members in by_patient.items():
        studies = len({g.study or g.series for g in members})
        if studies > 1 and (found := list(_suspicions(patient, members, only))):
            shared += studies
            reasons.update(found)
    told = []
    if shared:
        told.append(
            f"{shared} studies share PatientIDs that look anonymised ({', '.join(sorted(reasons))})"
            ": each PatientID becomes one subject, and pairs may mix animals; unless that is right,"
            " give --subject_from=study or --subject_from=folder"
        )
    if len(nameless) > 1:
        told.append(
            f"{len(nameless)} studies have no PatientID: each becomes a subject of its own; where "
            "several are of one, give --subject_from=folder"
        )
    return told
