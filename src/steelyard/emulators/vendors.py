"""Every vendor there is an emulator of, by the kind of upstream it plays."""

from collections.abc import Callable

from steelyard.emulators.deepseek import DeepSeek
from steelyard.emulators.minimax import MiniMax
from steelyard.emulators.moonshot import Moonshot
from steelyard.emulators.server import Emulator
from steelyard.emulators.zhipu import Zhipu

EMULATORS: dict[str, Callable[[], Emulator]] = {
    "deepseek": DeepSeek,
    "zhipu": Zhipu,
    "moonshot": Moonshot,
    "minimax": MiniMax,
}
