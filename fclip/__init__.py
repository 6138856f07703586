"""fclip: fine-tune, measure and search with CLIP on fashion catalogues."""

__version__ = "0.1.0"
