"""What makes a question more than one vector: fusion, feedback, phrases to avoid, diversity, reasons, colours.

Pure functions of vectors; `fclip.recommend` puts them together.
"""
