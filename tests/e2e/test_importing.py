"""A customer of new-api moves to a platform that runs: his key works at once, his money is there, he pays by ratios."""

import json
from pathlib import Path

from tests.e2e.test_refusals import HELLO, post
from tests.emulators.failing_server import FailingServer
from tests.fakes.foreign import CHANNEL_KEY, TOKEN, ForeignBooks
from tests.platform import Platform, wait_for

KEY = f"sk-{TOKEN}"
BODY = json.dumps(HELLO | {"model": "moved-model"}).encode()
TABLE = {
    "openai/moved-model": {
        "litellm_provider": "openai",
        "mode": "chat",
        "max_input_tokens": 4096,
        "max_output_tokens": 4096,
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
    }
}
CHARGE_NANO = 32 * 2000 + 8 * 500 + 3 * 4000  # fresh and cached prompt tokens, the answer; a ratio of 1 is $2 a million


def test_a_customer_moves_with_key_and_money_while_the_platform_runs(platform: Platform, tmp_path: Path) -> None:
    with FailingServer(()) as vendor:
        site = ForeignBooks(tmp_path / "one-api.db", "new-api")
        address = f"http://127.0.0.1:{vendor.port}"
        site.add("channels", type=1, key=CHANNEL_KEY, models="moved-model", base_url=address, name="c")
        site.add("users", username="moved", quota=5_000_000)
        site.add("tokens", user_id=1, key=TOKEN, name="laptop", unlimited_quota=1)
        ratios = {"ModelRatio": 1, "CompletionRatio": 2, "CacheRatio": 0.25}
        site.options(**{name: {"moved-model": ratio} for name, ratio in ratios.items()})
        site.close()
        table = tmp_path / "table.json"
        table.write_text(json.dumps(TABLE))
        asked = ("import", "new-api", str(site.path), "--prices", str(table), "--source", "moved", "--apply")

        assert post(platform, BODY, KEY)[0] == 401
        done = platform.run(*asked)
        assert done["counts"] == {"created": 7, "changed": 0, "unchanged": 0, "refused": 0}
        assert platform.wallet("moved")["available_nano"] == 10 * 10**9
        status, answer, _ = post(platform, BODY, KEY)
        assert status == 200, answer
        left = 10 * 10**9 - CHARGE_NANO
        wait_for(lambda: platform.wallet("moved")["balance_nano"] == left, "the posting")
        assert platform.run(*asked)["counts"] == {"created": 0, "changed": 0, "unchanged": 7, "refused": 0}
        assert platform.wallet("moved")["balance_nano"] == left
    assert platform.run("verify")["ok"]
    for text in (json.dumps(done), platform.text, platform.logs()):
        assert CHANNEL_KEY not in text and TOKEN not in text
