"""Steps of tests may be named in configs like any other: workers are told, because the list travels with the work."""

from stages.core import config

config.PACKAGES = (*config.PACKAGES, "tests.")
