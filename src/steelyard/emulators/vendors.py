"""Every vendor there is an emulator of, by the kind of upstream it plays."""

from collections.abc import Callable

from steelyard.emulators.ark import Ark
from steelyard.emulators.chat import Chat
from steelyard.emulators.dashscope import DashScope
from steelyard.emulators.dashscope_native import DashScopeNative
from steelyard.emulators.deepseek import DeepSeek
from steelyard.emulators.gemini import Gemini
from steelyard.emulators.minimax import MiniMax
from steelyard.emulators.moonshot import Moonshot
from steelyard.emulators.server import Emulator
from steelyard.emulators.stepfun import StepFun
from steelyard.emulators.zhipu import Zhipu

EMULATORS: dict[str, Callable[[], Emulator]] = {
    "deepseek": DeepSeek,
    "zhipu": Zhipu,
    "moonshot": Moonshot,
    "minimax": MiniMax,
    "ark": Ark,
    "dashscope": DashScope,
    "dashscope_native": DashScopeNative,
    "stepfun": StepFun,
    "gemini": Gemini,
    "openai": Chat,
}
