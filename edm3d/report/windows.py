"""The fixed grey and colour windows in which CTs and their differences are shown."""

WINDOW_HU = (-1000.0, 300.0)
DIFFERENCE_HU = (-500.0, 500.0)
