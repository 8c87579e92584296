// Drives a gateway with the official client: clients.mjs SCENE BASE_URL MODULES. Prints what it saw as JSON.

import { createRequire } from "node:module";

const [scene, base, modules] = process.argv.slice(2);
let OpenAI;
try {
  OpenAI = createRequire(`${modules}/`)("openai");
} catch {
  process.exit(77);
}
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "sk-demo-alice", maxRetries: 0 });

const messages = [{ role: "user", content: "how are you" }];
const chat = { model: "demo", messages, max_tokens: 5 };
const completion = { model: "demo", prompt: "how are you", max_tokens: 5 };
const answer = { model: "demo", input: "how are you", max_output_tokens: 5 };
const endless = 1_000_000;

function check(holds, what) {
  if (!holds) throw new Error(JSON.stringify(what));
}

/** What there is to compare with the row, in the ledger's words. */
function seen(path, response, text, finishReason, usage) {
  const tokens = usage && {
    input_tokens: usage.prompt_tokens ?? usage.input_tokens,
    output_tokens: usage.completion_tokens ?? usage.output_tokens,
    total_tokens: usage.total_tokens,
  };
  const id = response.headers.get("x-stream-id");
  const row = { id, tenant: "alice", path, finish_reason: finishReason, text_len: [...text].length, ...tokens };
  return { text, row };
}

/** Reads a stream of chunks to its end. */
async function joined(stream, textOf) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const choices = chunks.flatMap((chunk) => chunk.choices);
  const text = choices.map((choice) => textOf(choice) ?? "").join("");
  return { chunks, text, finishReason: choices.at(-1).finish_reason };
}

const ofChat = (choice) => choice.delta.content;
const ofCompletion = (choice) => choice.text;

async function complete() {
  const all = [];
  const usage = { stream: true, stream_options: { include_usage: true } };

  let { data, response } = await client.chat.completions.create(chat).withResponse();
  let choice = data.choices[0];
  all.push(seen("/v1/chat/completions", response, choice.message.content, choice.finish_reason, data.usage));

  ({ data, response } = await client.chat.completions.create({ ...chat, ...usage }).withResponse());
  let read = await joined(data, ofChat);
  all.push(seen("/v1/chat/completions", response, read.text, read.finishReason, read.chunks.at(-1).usage));

  ({ data, response } = await client.completions.create(completion).withResponse());
  choice = data.choices[0];
  all.push(seen("/v1/completions", response, choice.text, choice.finish_reason, data.usage));

  ({ data, response } = await client.completions.create({ ...completion, ...usage }).withResponse());
  read = await joined(data, ofCompletion);
  all.push(seen("/v1/completions", response, read.text, read.finishReason, read.chunks.at(-1).usage));

  ({ data, response } = await client.responses.create(answer).withResponse());
  all.push(seen("/v1/responses", response, data.output_text, data.incomplete_details.reason, data.usage));

  ({ data, response } = await client.responses.create({ ...answer, stream: true }).withResponse());
  let text = "";
  let last;
  for await (const event of data) {
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event.response;
  }
  all.push(seen("/v1/responses", response, text, last.incomplete_details.reason, last.usage));
  return all;
}

/** Streams whose client does not ask for usage, and must not see that somebody else did. */
async function unasked() {
  const all = [];
  for (const [path, request, textOf] of [
    ["/v1/chat/completions", client.chat.completions.create({ ...chat, stream: true }), ofChat],
    ["/v1/completions", client.completions.create({ ...completion, stream: true }), ofCompletion],
  ]) {
    const { data, response } = await request.withResponse();
    const { chunks, text, finishReason } = await joined(data, textOf);
    check(chunks.every((chunk) => chunk.choices.length === 1 && !("usage" in chunk)), chunks);
    all.push(seen(path, response, text, finishReason, undefined));
  }
  return all;
}

/** Each protocol, endless: how it is asked for, and how an event's text is found. */
const longStreams = [
  [
    () => client.chat.completions.create({ ...chat, max_tokens: endless, stream: true }),
    (chunk) => ofChat(chunk.choices[0]),
  ],
  [
    () => client.completions.create({ ...completion, max_tokens: endless, stream: true }),
    (chunk) => ofCompletion(chunk.choices[0]),
  ],
  [
    () => client.responses.create({ ...answer, max_output_tokens: endless, stream: true }),
    (event) => event.delta,
  ],
];

/** Leaves after some words: by its controller, or by leaving the loop. */
async function cancel() {
  const all = [];
  for (const words of [1, 4, 40]) {
    for (const leave of ["abort", "break"]) {
      for (const [open, textOf] of longStreams) {
        const { data, response } = await open().withResponse();
        let text = "";
        let left = words;
        for await (const event of data) {
          const more = textOf(event);
          if (typeof more !== "string" || more === "") continue;
          text += more;
          left -= 1;
          if (left === 0 && leave === "abort") data.controller.abort();
          if (left === 0) break;
        }
        all.push({ id: response.headers.get("x-stream-id"), text_len: [...text].length });
      }
    }
  }
  return all;
}

const scenes = { complete, unasked, cancel };
process.stdout.write(JSON.stringify(await scenes[scene]()));
