"""`steelyard import new-api` and `one-api` end to end on real books: dry, applied, again; nothing secret is said."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import create_engine, text
from tests.fakes.foreign import CHANNEL_KEY, TOKEN, small_site

from steelyard.identity.keys import authenticate
from steelyard.identity.store import live_callers
from steelyard.processes.snapshot import read_snapshot
from steelyard.upstream.sealed import Master

SECRETS = (CHANNEL_KEY, TOKEN, "secret-hash", "channel-secret", hashlib.sha256(f"sk-{TOKEN}".encode()).hexdigest())


@pytest.fixture
def site(tmp_path: Path) -> str:
    place = small_site(tmp_path / "one-api.db")
    place.close()
    return str(place.path)


def states(said: Any) -> dict[str, str]:
    return {step["what"]: step["state"] for step in said.json["steps"]}


def left(said: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in said.json["left"]:
        found[one["what"]] = found.get(one["what"], "") + one["why"]
    return found


def snapshot(terminal: Any) -> Any:
    engine = create_engine(f"sqlite:///{terminal.data.database}")
    with engine.connect() as connection:
        found = read_snapshot(connection)
        callers = dict(live_callers(connection))
    engine.dispose()
    return structs.replace(found, callers=callers)


def test_a_dry_run_tells_all_and_writes_nothing(terminal: Any, site: str) -> None:
    before = snapshot(terminal)
    said = terminal("import", "new-api", site, "--json")
    assert said.code == 0 and said.json["applied"] is False
    assert said.json["counts"] == {"created": 12, "changed": 0, "unchanged": 0, "refused": 0}
    assert states(said)["opening balance of alice: 2.469134 USD"] == "created"
    assert snapshot(terminal) == before
    told = terminal("import", "new-api", site).out
    assert "Dry run, nothing was written: 12 created" in told


def test_before_there_are_books_the_dry_run_is_on_empty_ones(empty: Any, site: str) -> None:
    assert empty("import", "new-api", site, "--json").json["counts"]["created"] == 12
    assert not empty.data.root.exists()
    assert "There are no books" in empty("import", "new-api", site, "--apply").err


def test_what_stays_behind_is_told_with_its_reason(terminal: Any, site: str) -> None:
    told = left(terminal("import", "new-api", site, "--json"))
    assert "switched off" in told["channel 2 (main)"]
    assert "type 2 has no adapter" in told["channel 3 (main)"]
    assert "sold per call" in told["price of per-call"]
    assert "--pricing" in told["price of unpriced"]
    assert "ends on 2030-03-17" in told["key sk-Z1b2C3… (ends) of alice"]
    assert "may spend 0.10 USD more in all; here" in told["key sk-Y1b2C3… (bound) of alice"]
    assert "could be guessed" in told["key s… (short) of alice"]
    assert "switched off" in told["key sk-X1b2C3… (off) of bob"]
    assert "owes 0.50 USD" in told["user 2 (bob)"]
    assert "it had 0.00001 USD" in told["user 3 (carol)"]
    assert not any("dave" in what for what in told)


def test_applied_the_money_is_in_the_ledger_and_the_token_opens_the_door(terminal: Any, site: str) -> None:
    said = terminal("import", "new-api", site, "--apply", "--json")
    assert (said.code, said.json["counts"]["created"]) == (0, 12)
    shown = terminal("wallet", "show", "alice", "--json").json
    assert (shown["balance"], shown["currency"]) == ("2.469134", "USD")
    assert terminal("verify").code == 0
    (limit,) = terminal("limit", "list", "--tenant", "alice", "--json").json
    assert (limit["scope"], limit["amount_nano"], limit["every"]) == ("key", 10**8, "month")
    now = snapshot(terminal)
    caller = authenticate(now, f"Bearer sk-{TOKEN}")
    assert (caller.tenant, caller.currency) == ("alice", "USD")
    (offer,) = now.models["qwen-shop"].offers
    assert (offer.upstream, offer.upstream_model) == ("openai", "qwen-plus")
    assert offer.address == "https://gateway.example/v1"
    (tariff,) = now.prices["qwen-shop"]
    assert {line.meter.value: line.text for line in tariff.lines} == {
        "input": "0.7144",
        "cached_input": "0.14288",
        "cache_write": "0.893",
        "output": "1.786",
    }
    assert [line.text for line in now.prices["text-embedding-v3"][0].lines] == ["0.1"]


def test_a_second_run_changes_nothing_even_when_there_is_less_money_there(terminal: Any, tmp_path: Path) -> None:
    place = small_site(tmp_path / "one-api.db")
    terminal("import", "new-api", str(place.path), "--apply")
    before = snapshot(terminal)
    place.change("UPDATE users SET quota = 7 WHERE id = 1")
    said = terminal("import", "new-api", str(place.path), "--apply", "--json")
    assert said.json["counts"] == {"created": 0, "changed": 0, "unchanged": 12, "refused": 0}
    assert snapshot(terminal) == before
    assert terminal("wallet", "show", "alice", "--json").json["balance"] == "2.469134"
    place.close()


def test_what_came_later_comes_with_the_next_run(terminal: Any, tmp_path: Path) -> None:
    place = small_site(tmp_path / "one-api.db")
    terminal("import", "new-api", str(place.path), "--apply")
    place.add("users", username="erin", quota=500_000)
    place.change("UPDATE channels SET base_url = 'https://other.example' WHERE id = 1")
    place.change("""UPDATE options SET value = '{"qwen-shop": 1}' WHERE "key" = 'CompletionRatio'""")
    said = terminal("import", "new-api", str(place.path), "--apply", "--json")
    assert said.json["counts"] == {"created": 3, "changed": 4, "unchanged": 7, "refused": 0}
    place.close()


def test_a_tenant_of_the_same_name_is_not_taken_for_another(terminal: Any, tmp_path: Path) -> None:
    place = small_site(tmp_path / "one-api.db")
    place.change("UPDATE users SET username = 'acme' WHERE id = 1")
    said = terminal("import", "new-api", str(place.path), "--apply", "--json")
    assert said.code == 1
    refused = {step["what"]: step["why"] for step in said.json["steps"] if step["state"] == "refused"}
    assert {"tenant acme", "opening balance of acme: 2.469134 USD", "key sk-A1b2C3… (laptop) of acme"} <= set(refused)
    assert all("acme" in what for what in refused)
    assert "exists already" in refused["tenant acme"]
    assert terminal("wallet", "show", "acme", "--json").json["balance"] == "4.999903"
    again = terminal("import", "new-api", str(place.path), "--apply", "--prefix", "old-", "--json")
    assert states(again)["tenant old-acme"] == "created"
    place.close()


def test_bounds_are_dropped_only_where_asked(terminal: Any, site: str) -> None:
    said = terminal("import", "new-api", site, "--loosen", "--json")
    assert said.json["counts"]["created"] == 13
    assert "comes without its bounds" in left(said)["key sk-Z1b2C3… (ends) of alice"]


def test_a_token_that_has_ended_stays_behind_whatever_is_asked(terminal: Any, tmp_path: Path) -> None:
    place = small_site(tmp_path / "one-api.db")
    place.change("UPDATE tokens SET expired_time = 1700000000 WHERE name = 'ends'")  # nobody asked since: still on
    said = terminal("import", "new-api", str(place.path), "--loosen", "--json")
    assert said.json["counts"]["created"] == 12
    assert "ended" in left(said)["key sk-Z1b2C3… (ends) of alice"]
    place.close()


def test_keys_of_upstreams_are_sealed_and_never_replaced(terminal: Any, site: str) -> None:
    assert states(terminal("import", "new-api", site, "--json"))["key of the upstream openai"] == "created"
    assert snapshot(terminal).credentials == {}, "a dry run writes nothing"
    terminal("import", "new-api", site, "--apply", "--no-keys")
    assert snapshot(terminal).credentials == {}
    terminal("import", "new-api", site, "--apply")
    sealed = snapshot(terminal).credentials
    assert Master(terminal.data.master).open(sealed["openai"]) == CHANNEL_KEY
    again = terminal("import", "new-api", site, "--apply", "--json")
    assert states(again)["key of the upstream openai"] == "unchanged"
    assert snapshot(terminal).credentials == sealed


@pytest.mark.parametrize("more", [(), ("--json",), ("--apply",), ("--apply", "--json"), ("--loosen",)])
def test_nothing_secret_is_said(terminal: Any, site: str, more: tuple[str, ...]) -> None:
    said = terminal("import", "new-api", site, *more)
    assert said.code == 0
    for secret in SECRETS:
        assert secret not in said.out + said.err


def test_the_other_site_is_only_read(terminal: Any, site: str) -> None:
    before = Path(site).read_bytes()
    terminal("import", "new-api", site, "--apply")
    assert Path(site).read_bytes() == before


def test_one_api_has_other_columns_and_other_rules(terminal: Any, tmp_path: Path) -> None:
    place = small_site(tmp_path / "one-api.db", "one-api")
    place.change("UPDATE tokens SET subnet = '10.0.0.0/8' WHERE id = 1")
    place.add("channels", type=36, key="k", models="deepseek-chat", name="ds")
    said = terminal("import", "one-api", str(place.path), "--json")
    assert "some addresses only" in left(said)["key sk-A1b2C3… (laptop) of alice"]
    assert "completion ratio" not in left(said).get("price of qwen-shop", "")
    assert "write it" in left(said)["price of deepseek-chat"]
    assert "deepseek-chat at deepseek (assumed)" in states(said)
    place.change("UPDATE channels SET models = 'deepseek-flash' WHERE type = 36")
    said = terminal("import", "one-api", str(place.path), "--json")
    assert states(said)["costs of 1 models at deepseek, from the shipped book"] == "created"
    assert "deepseek-flash at deepseek" in states(said), "its sizes are in the book as well"
    assert "[[rate]]" in left(said)["costs of deepseek"]
    place.change("UPDATE channels SET base_url = 'https://reseller.example' WHERE type = 36")
    said = terminal("import", "one-api", str(place.path), "--json")
    assert "Nothing says" in left(said)["costs of deepseek"], "a reseller asks for what he likes"
    table = tmp_path / "table.json"
    costs = {"input_cost_per_token": "0.000001", "output_cost_per_token": "0.000001"}
    table.write_text(json.dumps({"deepseek-flash": {"litellm_provider": "deepseek"} | costs}))
    said = terminal("import", "one-api", str(place.path), "--prices", str(table), "--json")
    assert "its address is another's" in left(said)["costs of deepseek"]
    assert not any("Priorities" in note for note in said.json["notes"])
    place.change("UPDATE channels SET priority = 10 WHERE type = 36")
    assert any("Priorities" in note for note in terminal("import", "one-api", str(place.path), "--json").json["notes"])
    place.close()


def test_what_is_no_such_database(terminal: Any, tmp_path: Path) -> None:
    assert "There is no database file" in terminal("import", "one-api", str(tmp_path / "none")).err
    create_engine(f"sqlite:///{tmp_path / 'x.db'}").connect().execute(text("CREATE TABLE users (id int)"))
    assert "no table channels, tokens, options" in terminal("import", "one-api", str(tmp_path / "x.db")).err
    (tmp_path / "text").write_text("this is no database, however long it may be")
    assert terminal("import", "one-api", str(tmp_path / "text")).code == 1
    assert "takes no password" in terminal("import", "one-api", "postgresql://a:b@localhost/x").err


def test_a_configuration_of_litellm(terminal: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", CHANNEL_KEY)
    config = tmp_path / "config.yaml"
    config.write_text(
        "model_list: [{model_name: m, litellm_params: {model: openai/x, api_key: os.environ/MY_KEY,"
        " input_cost_per_token: 1e-06, output_cost_per_token: 2.0e-06}, model_info: {max_tokens: 4096}}]"
    )
    first = terminal("import", "litellm", str(config), "--apply", "--json")
    assert (first.code, set(states(first).values())) == (0, {"created"})
    now = snapshot(terminal)
    assert [line.text for line in now.prices["m"][0].lines] == ["1", "1", "2"]
    assert now.costs["openai"][0].model == "x"
    assert Master(terminal.data.master).open(now.credentials["openai"]) == CHANNEL_KEY
    again = terminal("import", "litellm", str(config), "--apply", "--json")
    assert set(states(again).values()) == {"unchanged"}
    assert CHANNEL_KEY not in first.out + first.err
