// The AI SDK's provider for OpenAI, which speaks to /v1/responses unless it is told otherwise.
import { createOpenAI } from "@ai-sdk/openai";
import { ask } from "./ai_sdk.mjs";

export const cell = (job) => ask(createOpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key })(job.model), job);
