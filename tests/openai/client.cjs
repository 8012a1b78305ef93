// What the official client for JavaScript gets, as one JSON value on standard output.
//
// The first argument names what it does; client.py does and prints the same.

"use strict";
const { OpenAI, APIError, APIConnectionTimeoutError } = require("openai");

const client = new OpenAI({ maxRetries: 0 });
const ASK = [
  { role: "system", content: "Answer questions about this project." },
  { role: "user", content: [{ type: "text", text: "What is a projection here?" }] },
];
const CITY = {
  type: "object",
  properties: {
    name: { type: "string", enum: ["Athens", "Bergen"] },
    people: { type: "integer", minimum: 0, maximum: 9999999 },
  },
  required: ["name", "people"],
  additionalProperties: false,
};
const NO_SCHEMA = { type: "json_schema", json_schema: { name: "n", schema: { type: "what" } } };

async function firstModel() {
  return (await client.models.list()).data[0].id;
}

async function create(more, options) {
  const body = { model: await firstModel(), messages: ASK, ...more };
  return client.chat.completions.create(body, options);
}

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function failure(attempt) {
  try {
    await attempt();
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    return {
      class: error.constructor.name,
      status: error.status,
      code: error.code,
      param: error.param,
      type: error.type,
      request_id: typeof error.requestID === "string",
    };
  }
  throw new Error("it is not refused");
}

const whatToDo = {
  async list() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids, one: await client.models.retrieve(ids[0]) };
  },

  plain: () => create({ max_completion_tokens: 40, temperature: 0, user: "u1" }),

  async stream() {
    const stream_options = { include_usage: true };
    return all(await create({ max_tokens: 40, temperature: 0, stream: true, stream_options }));
  },

  async logprobs() {
    const more = { max_tokens: 8, logprobs: true, top_logprobs: 3, temperature: 0 };
    const chunks = await all(await create({ ...more, stream: true }));
    return { whole: await create(more), chunks };
  },

  async schema() {
    const json_schema = { name: "city", strict: true, schema: CITY };
    const response_format = { type: "json_schema", json_schema };
    const body = { model: await firstModel(), messages: ASK, temperature: 0, max_tokens: 120 };
    const whole = await client.chat.completions.parse({ ...body, response_format });
    return { whole, parsed: JSON.parse(whole.choices[0].message.content) };
  },

  async errors() {
    const stranger = new OpenAI({ apiKey: "amk_wrong", maxRetries: 0 });
    return [
      await failure(() => stranger.models.list()),
      await failure(() => client.models.retrieve("no-model")),
      await failure(() => create({ model: "no-model" })),
      await failure(() => create({ model: "no-model", stream: true })),
      await failure(() => create({ n: 2 })),
      await failure(() => create({ messages: [] })),
      await failure(() => create({ temperature: 3, stream: true })),
      await failure(() => create({ messages: [{ role: "user", content: "why ".repeat(6000) }] })),
      await failure(() => create({ response_format: NO_SCHEMA, stream: true })),
    ];
  },

  async cancel() {
    const told = [];
    for await (const piece of await create({ stream: true })) {
      told.push(piece.id);
      if (told.length === 3) break;
    }
    try {
      await create({}, { timeout: 1500 });
    } catch (error) {
      if (error instanceof APIConnectionTimeoutError) return { streamed: told[0] };
      throw error;
    }
    throw new Error("it is answered in time");
  },
};

whatToDo[process.argv[2]]().then((got) => console.log(JSON.stringify(got)));
