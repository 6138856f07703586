"""How the parts of a question are weighed when nothing else is asked for; what `--help` tells without heavy libraries.

Chosen by `python -m experiments.fusion_study`, whose table is in `experiments/README.md`.
"""

DEFAULT_FUSION = "late"
TEXT_SHARE = {"mean": 0.6, "slerp": 0.65, "late": 0.55, "rrf": 0.5}
"""Fusion → the share of words against pictures, when both are asked with."""
