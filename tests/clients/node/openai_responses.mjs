// openai-node at /v1/responses.
import OpenAI from "openai";
import { parsed } from "./parsed.mjs";

export async function cell(job) {
  const { responses } = new OpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key });
  const asked = { model: job.model, input: job.prompt };
  if (job.ask === "tools") asked.tools = job.tools.map((tool) => ({ type: "function", strict: true, ...tool }));
  if (job.ask === "schema") {
    asked.text = { format: { type: "json_schema", name: "forecast", strict: true, schema: job.schema } };
  }
  if (job.leave) {
    let id;
    for await (const event of await responses.create({ ...asked, stream: true })) {
      if (event.type === "response.created") id = event.response.id;
      if (event.type === "response.output_text.delta") return { id, text: event.delta };
    }
  }
  if (job.way === "stream") return seen(await responses.stream(asked).finalResponse());
  const { data, request_id } = await responses.create(asked).withResponse();
  return { ...seen(data), id: request_id };
}

function seen(answer) {
  const calls = answer.output.filter((item) => item.type === "function_call");
  return {
    id: answer.id,
    text: answer.output_text,
    value: parsed(answer.output_text),
    calls: calls.map((call) => [call.name, JSON.parse(call.arguments)]),
    usage: {
      prompt: answer.usage.input_tokens,
      cached: answer.usage.input_tokens_details.cached_tokens,
      output: answer.usage.output_tokens,
    },
  };
}
