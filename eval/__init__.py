"""Measure models: pure metrics in `eval.metrics`, protocols beside it, `python -m eval --help` on top."""
