"""On the path of a test's processes: steps of tests may be named in configs there too, as in tests/conftest.py."""

from stages.core import config

config.PACKAGES = (*config.PACKAGES, "tests.")
