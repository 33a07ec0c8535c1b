"""Property tests draw the same cases on every run, and write nothing to disk."""

from hypothesis import settings

settings.register_profile("texts", derandomize=True, deadline=None, database=None)
settings.load_profile("texts")
