// Speaks for client libraries: a job a line on stdin, what the client saw as a line on stdout. See ../python/drive.py.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const answer = (value) => process.stdout.write(JSON.stringify(value) + "\n");
console.log = console.info = console.warn = console.error;

function told(error) {
  const inner = error.lastError ?? error;
  return {
    kind: inner.name === "Error" ? inner.constructor.name : inner.name,
    status: inner.status ?? inner.statusCode ?? null,
    text: String(inner.message).slice(0, 300),
  };
}

function version(name) {
  return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  let said = { version: version(job.package) };
  try {
    const { cell } = await import(`./${job.client}.mjs`);
    said = { ...said, ...(await cell(job)) };
  } catch (error) {
    console.error(error);
    said.error = told(error);
  }
  answer(said);
}
