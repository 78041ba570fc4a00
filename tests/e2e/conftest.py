"""The local engines as such, started once for all tests that only ask them; what unchanged clients ask, and see."""

from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import openai
import pytest
from tests.e2e.local_engine import Engine, adapter, running
from tests.e2e.vendor import sold
from tests.emulators.openai_server import OpenAIServer
from tests.platform import Platform

from steelyard.engines.choice import OPENVINO, Asked, machine_here, possible
from steelyard.engines.converted import folder_of, make
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.weights import cache_directory, fetch

LLAMA_CPP = ("--threads", "1", "--slots", "2")
OPENVINO_HERE = ("--slots", "8", "--precision", "f32", "--cache-precision", "f32")


@pytest.fixture(scope="session")
def weights() -> Path:
    return fetch()


@pytest.fixture(scope="session")
def folder(weights: Path) -> Path:
    """The 8-bit weights, made by the first run on this machine."""
    here = next(one for one in possible(machine_here(), Asked()) if one.name == OPENVINO)
    if not here.possible or find_spec("openvino_genai") is None:
        pytest.skip(f"OPENVINO IS NOT TESTED HERE: {here.why}")
    place = folder_of(cache_directory(), weights, "q8")
    make(weights, place, "q8")
    return place


@pytest.fixture(scope="session")
def llama_cpp(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running("engine", tmp_path_factory.mktemp("engine"), "--model", str(weights), *LLAMA_CPP) as engine:
        yield engine


@pytest.fixture(scope="session")
def openvino(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Its cache has 32 bits, as wherever tokens are drafted (engines/choice.py)."""
    data = tmp_path_factory.mktemp("openvino")
    with running("engine_openvino", data, "--folder", str(folder), *OPENVINO_HERE) as engine:
        yield engine


@pytest.fixture
async def upstream() -> AsyncIterator[LlamaCpp]:
    """The adapter through which they are asked."""
    async with adapter() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(platform: Platform) -> Iterator[OpenAIServer]:
    """A scripted server of OpenAI's dialect, sold for as long as the module runs."""
    with sold(platform) as running:
        yield running


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
def receipt(platform: Platform) -> Callable[[str], dict]:
    """What was posted of a request, once it is."""
    return platform.posted_receipt
