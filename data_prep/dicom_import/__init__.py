"""What `import_dicom.py` is made of.

`tree` (which files are a series, and whose), `subjects` (whether PatientIDs can be believed),
`convert` (one series becomes a file, once), `outcome` (names and tables), `earlier` (names
kept from an earlier import).
"""
