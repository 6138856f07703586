"""Answering over HTTP: `fclip serve INDEX`; `app.py` puts it together, `README.md` says how it is run."""
