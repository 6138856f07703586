"""Catalogues: one shape for every source of garments. See `schema` for the shape and `readers` for the formats."""

from fclip.catalogue.readers import open_catalogue
from fclip.catalogue.storage import save_catalogue

__all__ = ["open_catalogue", "save_catalogue"]
