"""Which of our kinds of upstream another system's providers and channel types are, and where they listen.

Data only: LiteLLM's provider prefixes (docs/providers, litellm 1.110.2) and the channel numbers of one-api
(relay/channeltype, commit bff2932) and new-api (constant/channel.go, commit 016c88c). What is not here is not carried.
"""

from typing import NamedTuple


class Vendor(NamedTuple):
    """`base` is the host others name, `path` where its OpenAI dialect (or ours for the kind) begins under it."""

    name: str
    kind: str
    base: str
    path: str = ""

    def is_at(self, address: str) -> bool:
        """Whether the vendor himself listens there."""
        return bool(self.base) and address.startswith(self.base)

    def address(self, base: str | None = None) -> str:
        """The address of an upstream whose `base` somebody configured, or the vendor's own."""
        told = (base or "").strip().rstrip("/")
        if not told:
            return f"{self.base}{self.path}"
        host = told.partition("://")[2] or told
        return told if "/" in host else f"{told}{self.path}"


OPENAI = Vendor("openai", "openai", "https://api.openai.com", "/v1")
ANTHROPIC = Vendor("anthropic", "anthropic", "https://api.anthropic.com")
OLLAMA = Vendor("ollama", "openai", "http://localhost:11434", "/v1")
OPENROUTER = Vendor("openrouter", "openai", "https://openrouter.ai/api", "/v1")
GEMINI = Vendor("gemini", "gemini", "https://generativelanguage.googleapis.com", "/v1beta/openai")
DASHSCOPE = Vendor("dashscope", "dashscope", "https://dashscope.aliyuncs.com", "/compatible-mode/v1")
ZHIPU = Vendor("zhipu", "zhipu", "https://open.bigmodel.cn", "/api/paas/v4")
MOONSHOT = Vendor("moonshot", "moonshot", "https://api.moonshot.cn", "/v1")
MINIMAX = Vendor("minimax", "minimax", "https://api.minimax.chat", "/v1")
DEEPSEEK = Vendor("deepseek", "deepseek", "https://api.deepseek.com")
ARK = Vendor("ark", "ark", "https://ark.cn-beijing.volces.com", "/api/v3")
STEPFUN = Vendor("stepfun", "stepfun", "https://api.stepfun.com", "/v1")
MISTRAL = Vendor("mistral", "openai", "https://api.mistral.ai", "/v1")
GROQ = Vendor("groq", "openai", "https://api.groq.com/openai", "/v1")
XAI = Vendor("xai", "openai", "https://api.x.ai", "/v1")
YI = Vendor("lingyiwanwu", "openai", "https://api.lingyiwanwu.com", "/v1")
SILICONFLOW = Vendor("siliconflow", "openai", "https://api.siliconflow.cn", "/v1")
TOGETHER = Vendor("together", "openai", "https://api.together.xyz", "/v1")
NOVITA = Vendor("novita", "openai", "https://api.novita.ai/v3/openai")
FIREWORKS = Vendor("fireworks", "openai", "https://api.fireworks.ai/inference", "/v1")
OWN = Vendor("own", "openai", "", "/v1")
"""A server that only its address tells: Custom, Xinference, hosted_vllm."""

_ONE_API_TYPES = {
    1: OPENAI, 8: OWN, 14: ANTHROPIC, 16: ZHIPU, 17: DASHSCOPE, 20: OPENROUTER, 24: GEMINI, 25: MOONSHOT,
}  # fmt: skip
ONE_API = _ONE_API_TYPES | {
    27: MINIMAX, 28: MISTRAL, 29: GROQ, 30: OLLAMA, 31: YI, 32: STEPFUN, 36: DEEPSEEK, 39: TOGETHER, 40: ARK,
    41: NOVITA, 44: SILICONFLOW,
}  # fmt: skip
NEW_API = _ONE_API_TYPES | {
    4: OLLAMA, 26: ZHIPU, 31: YI, 35: MINIMAX, 40: SILICONFLOW, 42: MISTRAL, 43: DEEPSEEK, 45: ARK, 47: OWN, 48: XAI,
}  # fmt: skip
"""Channel type → vendor. Up to 25 the two systems count alike."""

LITELLM = {
    "openai": OPENAI,
    "custom_openai": OWN,
    "openai_like": OWN,
    "anthropic": ANTHROPIC,
    "ollama": OLLAMA,
    "ollama_chat": OLLAMA,
    "hosted_vllm": OWN,
    "vllm": OWN,
    "lm_studio": OWN,
    "llamafile": OWN,
    "xinference": OWN,
    "openrouter": OPENROUTER,
    "gemini": GEMINI,
    "dashscope": DASHSCOPE._replace(name="dashscope-intl", base="https://dashscope-intl.aliyuncs.com"),
    "zai": ZHIPU._replace(name="zai", base="https://api.z.ai"),
    "moonshot": MOONSHOT._replace(name="moonshot-ai", base="https://api.moonshot.ai"),
    "minimax": MINIMAX._replace(name="minimax-io", base="https://api.minimax.io"),
    "deepseek": DEEPSEEK,
    "volcengine": ARK,
    "mistral": MISTRAL,
    "groq": GROQ,
    "xai": XAI,
    "together_ai": TOGETHER,
    "novita": NOVITA,
    "fireworks_ai": FIREWORKS,
}
"""The prefix of a model in LiteLLM → vendor."""
PRICE_TABLE = {
    "ark": "volcengine",
    "dashscope-intl": "dashscope",
    "fireworks": "fireworks_ai",
    "minimax-io": "minimax",
    "moonshot-ai": "moonshot",
    "together": "together_ai",
    "zhipu": "zai",
}
"""How LiteLLM's price table calls a vendor, where not as we do."""
