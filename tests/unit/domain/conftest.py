"""Properties are about results; the time of one example depends on what else runs."""

from hypothesis import settings

settings.register_profile("domain", deadline=None)
settings.load_profile("domain")
