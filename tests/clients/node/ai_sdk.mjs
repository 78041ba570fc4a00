// The AI SDK with any of its providers.
import { generateText, jsonSchema, Output, streamText, tool } from "ai";

export async function ask(model, job) {
  const asked = { model, prompt: job.prompt, onError: () => {} };
  if (job.ask === "tools") {
    const made = job.tools.map(({ name, description, parameters }) => [
      name,
      tool({ description, inputSchema: jsonSchema(parameters) }),
    ]);
    asked.tools = Object.fromEntries(made);
  }
  if (job.ask === "schema") asked.output = Output.object({ schema: jsonSchema(job.schema), name: "forecast" });
  if (job.way === "plain") return seen(job, await generateText(asked));
  const leaving = new AbortController();
  const answer = streamText({ ...asked, abortSignal: leaving.signal });
  for await (const part of answer.fullStream) {
    if (part.type === "error") throw part.error;
    if (job.leave && part.type === "text-delta" && part.text) {
      leaving.abort();
      return { text: part.text };
    }
  }
  const wanted = ["text", "toolCalls", "usage", "response", ...(job.ask === "schema" ? ["output"] : [])];
  const found = await Promise.all(wanted.map(async (name) => [name, await answer[name]]));
  return seen(job, Object.fromEntries(found));
}

function seen(job, answer) {
  const usage = answer.usage;
  return {
    id: answer.response.id,
    text: answer.text,
    value: job.ask === "schema" ? answer.output : null,
    calls: answer.toolCalls.map((call) => [call.toolName, call.input]),
    usage: usage.inputTokens === undefined ? null : {
      prompt: usage.inputTokens,
      cached: usage.inputTokenDetails.cacheReadTokens,
      output: usage.outputTokens,
    },
  };
}
