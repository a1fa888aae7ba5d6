"""What every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure, and a run of the tests says the same as the run before it.
settings.register_profile("temper", deadline=None, derandomize=True)
settings.load_profile("temper")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data and models, from TEMPER_REAL_DATA; the test is skipped, visibly, where there is none."""
    place = Path(os.environ.get("TEMPER_REAL_DATA", "../shared")).resolve()
    if not (place / "models/stories260k").is_dir():
        pytest.skip(f"no real data at {place}; set TEMPER_REAL_DATA")
    return place
