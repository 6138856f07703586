"""Metrics: pure functions on numpy arrays, one concept a file. Imports none of the project's other folders."""
