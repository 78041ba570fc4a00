"""What only a worker knows is asked of one, through the books' own socket."""

import pytest
from tests.unit.processes.test_books import House, house

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError

__all__ = ["house"]  # the fixture


async def test_the_books_pass_a_question_on_to_a_worker(house: House) -> None:
    worker, _ = await house.worker()
    worker.errands["route.explain"] = lambda payload: {"told": payload["model"]}
    asking = await house.client(None)
    answer = await asking.command("route.explain", {"model": "m"})
    assert answer == {"worker": worker.series, "workers": 1, "told": "m"}


async def test_a_workers_refusal_is_the_answer(house: House) -> None:
    worker, _ = await house.worker()
    asking = await house.client(None)
    with pytest.raises(CallerError) as caught:
        await asking.command("route.explain", {})
    assert (caught.value.status, caught.value.code) == (404, "unknown_command")

    def refuse(payload: dict[str, object]) -> object:
        raise CallerError(400, "bad_request", "No.", param="model")

    worker.errands["route.explain"] = refuse
    with pytest.raises(CallerError) as caught:
        await asking.command("route.explain", {})
    assert (caught.value.code, caught.value.message, caught.value.param) == ("bad_request", "No.", "model")


async def test_without_a_worker_or_its_answer_the_question_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = await house.client(None)
    with pytest.raises(CallerError) as caught:
        await asking.command("route.explain", {})
    assert (caught.value.status, caught.value.code) == (503, "worker_unavailable")
    worker, _ = await house.worker()
    monkeypatch.setattr(worker, "_run", lambda errand: None)  # says nothing that could be understood
    monkeypatch.setattr(limits, "ERRAND_S", 0.05)
    with pytest.raises(CallerError) as caught:
        await asking.command("route.explain", {})
    assert caught.value.code == "worker_unavailable"
    assert house.books is not None
    assert not house.books.errands._waiting
