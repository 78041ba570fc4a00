from msgspec import Raw

from steelyard.upstream.fanout import own_seed


def test_each_sequence_draws_with_a_seed_of_its_own() -> None:
    params = {"seed": Raw(b"7"), "top_p": Raw(b"1")}
    seeds = [bytes(own_seed(params, sequence)["seed"]) for sequence in range(3)]
    assert seeds == [b"7", b"8", b"9"]
    assert own_seed(params, 1)["top_p"] == Raw(b"1")
    assert "seed" not in own_seed({}, 1)


def test_a_seed_stays_within_what_an_engine_takes() -> None:
    for seed in (-(2**63), 2**63 - 1):
        assert 0 <= int(bytes(own_seed({"seed": Raw(str(seed).encode())}, 1)["seed"])) < 2**31
