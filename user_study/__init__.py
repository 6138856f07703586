"""The blind user study: its design, its score, its planning. `python -m user_study --help`."""
