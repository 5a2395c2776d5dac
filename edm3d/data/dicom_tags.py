"""The DICOM fields that edm3d ever looks at, and the native transfer syntaxes.

Nothing outside this table is kept by the reader. What identifies people or studies is here only as
`DIGEST`: good for telling equal from different. A `LABEL` is a whole number that nothing depends
on: where it is none, it is unknown and no reason to refuse a file. Source: DICOM PS3.6, PS3.5
annex A.
"""

TEXT, NUMBERS, INTEGER, REAL, BYTES, DIGEST, SEQUENCE, LABEL = range(8)
TAGS = {
    0x00080008: ("image_type", TEXT),
    0x00080016: ("sop_class", TEXT),
    0x00080060: ("modality", TEXT),
    0x00089007: ("frame_type", TEXT),
    0x00089205: ("pixel_presentation", TEXT),
    0x00100020: ("patient_digest", DIGEST),
    0x00100030: ("birth_digest", DIGEST),
    0x00100040: ("sex_digest", DIGEST),
    0x00181110: ("source_to_detector", TEXT),
    0x00181111: ("source_to_patient", TEXT),
    0x00181114: ("magnification", TEXT),
    0x00181164: ("imager_spacing", TEXT),
    0x00185100: ("patient_position", TEXT),
    0x00185101: ("view_position", TEXT),
    0x00189329: ("ct_frame_types", SEQUENCE),
    0x0020000D: ("study_digest", DIGEST),
    0x0020000E: ("series_digest", DIGEST),
    0x00200011: ("series_number", LABEL),
    0x00200020: ("patient_orientation", TEXT),
    0x00200032: ("position", NUMBERS),
    0x00200037: ("orientation", NUMBERS),
    0x00200052: ("frame_of_reference_digest", DIGEST),
    0x00200100: ("temporal_position", NUMBERS),
    0x00209111: ("frame_contents", SEQUENCE),
    0x00209113: ("plane_positions", SEQUENCE),
    0x00209116: ("plane_orientations", SEQUENCE),
    0x00209128: ("temporal_index", INTEGER),
    0x00209241: ("cardiac_percent", REAL),
    0x00209245: ("respiratory_percent", REAL),
    0x00209253: ("respiratory_synchronizations", SEQUENCE),
    0x00189118: ("cardiac_synchronizations", SEQUENCE),
    0x00280002: ("samples_per_pixel", INTEGER),
    0x00280004: ("photometric", TEXT),
    0x00280008: ("frames", NUMBERS),
    0x00280010: ("rows", INTEGER),
    0x00280011: ("columns", INTEGER),
    0x00280030: ("pixel_spacing", NUMBERS),
    0x00280100: ("bits_allocated", INTEGER),
    0x00280101: ("bits_stored", INTEGER),
    0x00280102: ("high_bit", INTEGER),
    0x00280103: ("pixel_representation", INTEGER),
    0x00280120: ("padding", BYTES),
    0x00280121: ("padding_limit", BYTES),
    0x00281040: ("intensity_relationship", TEXT),
    0x00281041: ("intensity_sign", INTEGER),
    0x00281052: ("intercept", NUMBERS),
    0x00281053: ("slope", NUMBERS),
    0x00281054: ("rescale_type", TEXT),
    0x00282110: ("lossy", TEXT),
    0x00289110: ("pixel_measures", SEQUENCE),
    0x00289145: ("value_transformations", SEQUENCE),
    0x52009229: ("shared", SEQUENCE),
    0x52009230: ("per_frame", SEQUENCE),
}

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
