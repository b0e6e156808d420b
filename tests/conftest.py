"""Steps of tests may be named in configs like any other: workers know it too, because the list travels with the work.

Property tests have no deadline: how long an example takes says something about the machine, not about the code.
"""

import hypothesis

from stages.core import config

config.PACKAGES = (*config.PACKAGES, "tests.")

hypothesis.settings.register_profile("rushes", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("rushes")
