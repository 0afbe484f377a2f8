// The whole life of a model through the official node SDK alone. Reads OPENAI_BASE_URL and OPENAI_API_KEY, and the file of
// rows as its first argument; writes what it saw as one line of JSON.
import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import OpenAI from "openai";

const MODEL = "gpt-4o-mini-2024-07-18";
const TERMINAL = new Set(["succeeded", "failed", "cancelled"]);
const client = new OpenAI({ maxRetries: 0 });

async function ended(id) {
  for (const until = Date.now() + 240_000; Date.now() < until; await pause(200)) {
    const job = await client.fineTuning.jobs.retrieve(id);
    if (TERMINAL.has(job.status)) return job;
  }
  throw new Error(`${id} did not end`);
}

async function all(pages) {
  const found = [];
  for await (const each of pages) found.push(each);
  return found;
}

const file = await client.files.create({ file: createReadStream(process.argv[2]), purpose: "fine-tune" });
const job = await client.fineTuning.jobs.create({
  model: MODEL,
  training_file: file.id,
  suffix: "from-node",
  metadata: { by: "node" },
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 1, learning_rate_multiplier: 15 } } },
});
assert.ok(["validating_files", "queued"].includes(job.status), job.status);
const done = await ended(job.id);
assert.equal(done.status, "succeeded", JSON.stringify(done.error));

const events = await all(client.fineTuning.jobs.listEvents(job.id, { limit: 5 }));
assert.ok(events.some((event) => event.type === "metrics"));
const [checkpoint] = await all(client.fineTuning.jobs.checkpoints.list(job.id));
const listed = await all(client.fineTuning.jobs.list({ metadata: { by: "node" } }));
assert.deepEqual(listed.map((each) => each.id), [job.id]);
const steps = await (await client.files.content(done.result_files[0])).text();
assert.match(steps, /^step,train_loss/);

const asked = { model: done.fine_tuned_model, messages: [{ role: "user", content: "Say colour 3" }], max_tokens: 8, temperature: 0 };
const whole = await client.chat.completions.create(asked);
let streamed = "";
const pieces = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
let usage = null;
for await (const piece of pieces) {
  streamed += piece.choices[0]?.delta?.content ?? "";
  usage = piece.usage ?? usage;
}
assert.equal(streamed, whole.choices[0].message.content);
assert.deepEqual(usage, whole.usage);
const early = await client.chat.completions.create({ ...asked, model: checkpoint.fine_tuned_model_checkpoint });
assert.equal(early.usage.prompt_tokens, whole.usage.prompt_tokens);
const text = await client.completions.create({ model: MODEL, prompt: ["Say", "Never"], max_tokens: 4, n: 2 });
assert.deepEqual(text.choices.map((choice) => choice.index), [0, 1, 2, 3]);

const other = await client.fineTuning.jobs.create({ model: MODEL, training_file: file.id });
assert.equal((await client.fineTuning.jobs.pause(other.id)).id, other.id);
await client.fineTuning.jobs.cancel(other.id);
assert.equal((await ended(other.id)).status, "cancelled");

await assert.rejects(client.fineTuning.jobs.retrieve("ftjob-nothing"), OpenAI.NotFoundError);
await assert.rejects(client.embeddings.create({ model: "text-embedding-3-small", input: "x" }), (error) => {
  return error instanceof OpenAI.BadRequestError && error.code === "no_embedder" && error.param === "model";
});
console.log(JSON.stringify({ model: done.fine_tuned_model, events: events.length, trained: done.trained_tokens, usage }));
