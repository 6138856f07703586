"""Versions of the study's tables; `user_study.store.open_store` brings a database to the newest."""
