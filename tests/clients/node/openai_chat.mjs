// openai-node at /v1/chat/completions.
import OpenAI from "openai";
import { parsed } from "./parsed.mjs";

export async function cell(job) {
  const chat = new OpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key }).chat.completions;
  const asked = { model: job.model, messages: [{ role: "user", content: job.prompt }] };
  if (job.ask === "tools") asked.tools = job.tools.map((tool) => ({ type: "function", function: tool }));
  if (job.ask === "schema") {
    const json_schema = { name: "forecast", strict: true, schema: job.schema };
    asked.response_format = { type: "json_schema", json_schema };
  }
  if (job.usage && job.way === "stream") asked.stream_options = { include_usage: true };
  if (job.leave) {
    for await (const chunk of await chat.create({ ...asked, stream: true })) {
      const text = chunk.choices[0].delta.content;
      if (text) return { id: chunk.id, text };
    }
  }
  if (job.way === "stream") return seen(await chat.stream(asked).finalChatCompletion());
  const { data, request_id } = await chat.create(asked).withResponse();
  return { ...seen(data), id: request_id };
}

function seen(answer) {
  const { message } = answer.choices[0];
  const calls = message.tool_calls ?? [];
  const usage = answer.usage;
  return {
    id: answer.id,
    text: message.content ?? "",
    value: parsed(message.content),
    calls: calls.map(({ function: { name, arguments: said } }) => [name, JSON.parse(said)]),
    usage: usage && {
      prompt: usage.prompt_tokens,
      cached: usage.prompt_tokens_details.cached_tokens,
      output: usage.completion_tokens,
    },
  };
}
