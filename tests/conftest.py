"""One thread (the same sums in the same order) and the profiles of hypothesis.

`HYPOTHESIS_PROFILE=explore python -m pytest tests/test_properties.py` looks for new
counterexamples; the default draws the same programs every time.
"""

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

quiet = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", derandomize=True, max_examples=150, **quiet)
settings.register_profile("explore", max_examples=2000, **quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
