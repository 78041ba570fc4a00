"""What every test shares: hypothesis without wall-clock judgements (the machine may be busy), one real platform."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.platform import Platform

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform with its real engine, two workers, started once for all tests that only talk to it."""
    running = Platform(tmp_path_factory.mktemp("platform") / "data", "--workers", "2").start()
    yield running
    assert running.stop() == 0, running.text
