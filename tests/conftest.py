"""Settings for all tests."""

from hypothesis import settings

# A busy machine is no failure: examples are bounded by number, not by time.
settings.register_profile("zwicky", deadline=None)
settings.load_profile("zwicky")
