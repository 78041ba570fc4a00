"""The office's commands about routing: what may be asked for, what it changes in the snapshot, how it refuses."""

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.ledger import books

from steelyard.kernel.clock import ManualClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import CallerError
from steelyard.kernel.records import Snapshot
from steelyard.kernel.routes import Guard, Policy, Route, RouteScope
from steelyard.processes.office import Office

COUNTS = {"context_tokens": 100, "max_output_tokens": 50, "default_max_tokens": 10}


class Shop:
    def __init__(self, place: Path | DatabaseUrl) -> None:
        self.clock = ManualClock()
        self.engine = books(place, clock=self.clock)
        self.office = Office(self.engine, self.clock)
        self("tenant.add", name="routed")
        self.key = self("key.add", tenant="routed", name="first")["id"]
        for model in ("flash", "max"):
            for upstream in ("near", "far"):
                self("model.register", name=model, upstream=upstream, address="h:1", upstream_model="x", **COUNTS)

    def __call__(self, op: str, **payload: Any) -> Any:
        return self.office.command(op, payload)

    def snapshot(self, op: str, **payload: Any) -> Snapshot:
        """What the workers are told after it."""
        made = self.office.execute(op, payload).snapshot
        assert made is not None
        return made

    def refused(self, op: str, **payload: Any) -> str:
        with pytest.raises(CallerError) as error:
            self(op, **payload)
        return error.value.code


@pytest.fixture
def shop(place: Path | DatabaseUrl):
    shop = Shop(place)
    yield shop
    shop.engine.dispose()


@pytest.mark.postgres
def test_rules_of_models_and_keys_are_set_changed_and_given_up(shop: Shop) -> None:
    rule = Route(RouteScope.MODEL, "flash", Policy.CHEAPEST, (), Guard.REROUTE, (), shop.clock.now_ns())
    assert shop.snapshot("route.set", model="flash", policy="cheapest", guard="reroute").routes.models == {
        "flash": rule
    }
    pinned = shop.snapshot("route.set", model="flash", pinned=["far", "near"]).routes.models["flash"]
    assert (pinned.policy, pinned.pinned, pinned.guard) == (Policy.PINNED, ("far", "near"), Guard.REROUTE)
    again = shop.snapshot("route.set", model="flash", policy="fastest").routes.models["flash"]
    assert (again.policy, again.pinned) == (Policy.FASTEST, ())
    assert shop.snapshot("route.set", model="flash", guard="").routes.models["flash"].guard is None
    again = shop.snapshot("route.set", model="flash", guard="flag").routes.models["flash"]
    key = shop.key
    keyed = shop.snapshot("route.set", key=key, fallbacks=["max"]).routes
    assert keyed.keys[key].fallbacks == ("max",) and keyed.models["flash"] == again
    assert {rule["scope"] for rule in shop("route.list")["routes"]} == {"model", "key"}
    assert shop.snapshot("route.clear", key=key).routes.keys == {}
    assert shop.office.execute("route.clear", {"key": key}).snapshot is None


@pytest.mark.postgres
def test_a_model_is_sold_under_another_name(shop: Shop) -> None:
    assert shop.snapshot("route.alias", name="gpt", model="flash").routes.aliases == {"gpt": "flash"}
    assert shop.snapshot("route.alias", name="gpt", model="max").routes.aliases == {"gpt": "max"}
    assert shop("route.show", model="gpt")["model"] == "max"
    assert shop.snapshot("route.alias", name="gpt").routes.aliases == {}


@pytest.mark.postgres
def test_offers_are_bounded_and_keep_it_when_they_register_again(shop: Shop) -> None:
    made = shop.snapshot("route.offer", model="flash", upstream="far", weight=200, rpm=60, first_token_s=5)
    far = made.models["flash"].offers[1]
    assert (far.weight, far.rpm, far.tpm, far.concurrency, far.first_token_s) == (200, 60, 0, 0, 5)
    shop("model.register", name="flash", upstream="far", address="h:2", upstream_model="y", **COUNTS)
    shown = shop("route.show", model="flash")["offers"][1]
    assert (shown["weight"], shown["rpm"], shown["address"]) == (200, 60, "h:2")


def test_an_upstream_is_asked_again(shop: Shop) -> None:
    assert shop.snapshot("route.retry", upstream="far").routes.upstreams == {"far": shop.clock.now_ns()}
    assert shop("route.list")["routes"] == []


def test_what_cannot_be_is_refused(shop: Shop) -> None:
    assert shop.refused("route.set", model="nobody", policy="cheapest") == "model_not_found"
    assert shop.refused("route.set", key=99, policy="cheapest") == "key_not_found"
    assert shop.refused("route.set", policy="cheapest") == "invalid_request"
    assert shop.refused("route.set", model="flash", key=1, policy="cheapest") == "invalid_request"
    assert shop.refused("route.set", model="flash", policy="best") == "invalid_request"
    assert shop.refused("route.set", model="flash", policy="pinned") == "invalid_request"
    assert shop.refused("route.set", model="flash", policy="fastest", pinned=["far"]) == "invalid_request"
    assert shop.refused("route.set", model="flash", fallbacks=["max"]) == "invalid_request"
    assert shop.refused("route.set", key=shop.key, fallbacks=["nobody"]) == "model_not_found"
    assert shop.refused("route.set", key=shop.key, guard="refuse") == "invalid_request"
    assert shop.refused("route.alias", name="max", model="flash") == "invalid_request"
    assert shop.refused("route.alias", name="gpt", model="nobody") == "model_not_found"
    assert shop.refused("route.alias", name="gpt") == "alias_not_found"
    assert shop.refused("route.offer", model="flash", upstream="far") == "invalid_request"
    assert shop.refused("route.offer", model="flash", upstream="moon", rpm=1) == "offer_not_found"
    assert shop.refused("route.offer", model="flash", upstream="far", weight=0) == "invalid_request"
    assert shop.refused("route.retry", upstream="moon") == "upstream_not_found"
