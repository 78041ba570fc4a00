"""What every engine process owes the one that started it: its address, its key, its end.

Owns the words both sides know an engine by. An engine leaves on SIGTERM, when the pipe on its standard input ends and,
on Linux, when its parent dies. Knows no model.
"""

import ctypes
import os
import signal
import socket
import stat
import sys

from steelyard.kernel.errors import StartError

HOST = "127.0.0.1"
KEY_VARIABLE = "STEELYARD_ENGINE_KEY"
LOCAL_UPSTREAM, EMBEDDING_UPSTREAM = "local", "local-embedding"
OFF, LOOKUP, MTP = "off", "lookup", "mtp"
"""How tokens are drafted: not at all, from those that were there before, by layers of the model made for it."""
UNUSABLE = 2
"""Exit code when a start cannot succeed without somebody changing something; one line on stderr says what."""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as such. SmolLM2's own template adds a system text of its own, under which the small model answers plain
questions wrongly (measured: the capital of France in gibberish; with this one every engine says Paris)."""

_PR_SET_PDEATHSIG = 1


def key_taken(variable: str) -> str:
    """The engine's key, out of the environment so that no child of it inherits one. Raises StartError."""
    key = os.environ.pop(variable, "")
    if not key:
        raise StartError(f"The engine needs its key in the environment variable {variable}.")
    return key


def die_with_parent(parent: int) -> None:
    """Linux: SIGTERM when the parent dies, even if its pipe lives on in another process."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the wish was heard
        raise SystemExit(0)


def parent_holds_pipe() -> bool:
    """Whether standard input is a pipe, the end of which says that the parent is gone."""
    kind = os.fstat(0).st_mode
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)


def refuse_taken(port: int) -> None:
    """Tell a taken port from whatever else keeps an engine from starting. Raises StartError."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StartError(f"The engine cannot listen on {HOST}:{port}: {error.strerror}.") from None
