"""Which version counts at a moment."""

from steelyard.catalog.tariffs import COST_NEEDS, PRICE_NEEDS, complete, in_force
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import Tariff, TariffLine


def version(tariff_id: int, from_ns: int, *meters: Meter) -> Tariff:
    return Tariff(tariff_id, "m", "CNY", from_ns, tuple(TariffLine(meter, "1", 1, 1) for meter in meters))


def test_the_latest_version_that_has_begun_counts() -> None:
    versions = (version(3, 300), version(2, 200), version(1, 100))
    assert [v and v.id for v in (in_force(versions, at) for at in (99, 100, 199, 200, 1000))] == [None, 1, 1, 2, 3]


def test_the_order_of_the_versions_does_not_matter() -> None:
    found = in_force((version(1, 100), version(2, 200)), 250)
    assert found is not None
    assert found.id == 2


def test_of_two_versions_with_one_date_the_later_loaded_counts() -> None:
    found = in_force((version(5, 100), version(4, 100)), 100)
    assert found is not None
    assert found.id == 5


def test_no_version_no_price() -> None:
    assert in_force((), 10**18) is None


def test_a_tariff_is_complete_when_all_needs_are_priced() -> None:
    assert complete(version(1, 0, Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT), PRICE_NEEDS)
    assert not complete(version(1, 0, Meter.INPUT, Meter.OUTPUT), PRICE_NEEDS)
    assert not complete(version(1, 0, Meter.CPU), COST_NEEDS)
