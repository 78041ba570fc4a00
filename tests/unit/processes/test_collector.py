import ctypes
import subprocess
import sys

import pytest

MADE_AND_DROPPED = """
import resource
from steelyard.processes.collector import keep_what_is_freed
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def prompts():
    for _ in range(50):
        some = [b"x" * 120_001 for _ in range(8)]
        del some
prompts(); before = faults(); prompts()
without = faults() - before
keep_what_is_freed()
prompts(); before = faults(); prompts()
print(without, faults() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library")
def test_what_a_prompt_took_is_not_given_back_and_cleared_anew_for_the_next() -> None:
    told = subprocess.run([sys.executable, "-c", MADE_AND_DROPPED], capture_output=True, text=True, check=True)
    without, faults = map(int, told.stdout.split())
    assert faults * 10 < without, "page faults of 400 pieces of 120 KB"
