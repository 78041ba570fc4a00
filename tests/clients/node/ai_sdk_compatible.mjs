// The AI SDK's provider for servers of OpenAI's kind, at /v1/chat/completions.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ask } from "./ai_sdk.mjs";

export function cell(job) {
  const settings = { name: "ours", baseURL: `${job.url}/v1`, apiKey: job.key, supportsStructuredOutputs: true };
  return ask(createOpenAICompatible({ ...settings, includeUsage: job.usage })(job.model), job);
}
