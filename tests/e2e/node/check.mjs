// The OpenAI SDK for Node as it comes, against the gateway named in the environment. Prints JSON: check → "ok" or what
// was wrong.
import assert from "node:assert/strict";
import OpenAI from "openai";

const { BASE_URL, API_KEY, POOR_KEY, LIMITED_KEY, UNKNOWN_KEY, SIM_URL } = process.env;
const model = "swift-1";
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const create = (fields, options) => client.chat.completions.create({ model, ...fields }, options);
const say = (text = "Say something.") => [{ role: "user", content: text }];
const collect = async (stream) => {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
};
const text = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
const tool = (name, properties) => ({
  type: "function",
  function: { name, parameters: { type: "object", properties, required: Object.keys(properties) } },
});
const tools = [tool("get_weather", { city: { type: "string" } }), tool("get_time", {})];
const schema = {
  type: "json_schema",
  json_schema: {
    name: "booking",
    strict: true,
    schema: {
      type: "object",
      properties: { name: { type: "string" }, count: { type: "integer" } },
      required: ["name", "count"],
      additionalProperties: false,
    },
  },
};

async function withFault(fault, work) {
  const answer = await fetch(`${SIM_URL}/_sim/faults`, { method: "POST", body: JSON.stringify(fault) });
  assert.equal(answer.status, 200, await answer.text());
  try {
    await work();
  } finally {
    await fetch(`${SIM_URL}/_sim/faults`, { method: "DELETE" });
  }
}

const checks = {
  async plain() {
    const completion = await create({ messages: say() });
    assert.ok(completion.choices[0].message.content);
    assert.equal(completion.choices[0].finish_reason, "stop");
    assert.equal(completion.model, model);
    assert.match(completion._request_id, /^req_/);
    assert.ok(Number(completion.usage.cost) > 0);
  },
  async streamed() {
    const plain = await create({ messages: say() });
    const chunks = await collect(await create({ messages: say(), stream: true, stream_options: { include_usage: true } }));
    assert.equal(text(chunks), plain.choices[0].message.content);
    assert.deepEqual(chunks.at(-1).usage, plain.usage);
    const without = await collect(await create({ messages: say(), stream: true }));
    assert.ok(without.every((chunk) => !chunk.usage));
  },
  async parallelTools() {
    const messages = say("Weather and time?\nsim: tools=3");
    const plain = await create({ messages, tools });
    assert.equal(plain.choices[0].finish_reason, "tool_calls");
    const calls = [];
    for await (const chunk of await create({ messages, tools, stream: true }))
      for (const piece of chunk.choices[0].delta.tool_calls ?? []) {
        const call = (calls[piece.index] ??= { id: piece.id, name: piece.function.name, arguments: "" });
        call.arguments += piece.function.arguments ?? "";
      }
    assert.equal(new Set(calls.map((call) => call.id)).size, 3);
    assert.deepEqual(
      calls.map((call) => [call.name, JSON.parse(call.arguments)]),
      plain.choices[0].message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]),
    );
    const final = await client.chat.completions.stream({ model, messages, tools }).finalChatCompletion();
    assert.equal(final.choices[0].message.tool_calls.length, 3);
  },
  async schema() {
    const completion = await client.chat.completions.parse({ model, messages: say("Data"), response_format: schema });
    const booking = JSON.parse(completion.choices[0].message.content);
    assert.equal(typeof booking.name, "string");
    assert.ok(Number.isInteger(booking.count));
  },
  async vision() {
    const image = { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } };
    const seen = await create({ messages: [{ role: "user", content: [{ type: "text", text: "What?" }, image] }] });
    assert.ok(seen.usage.prompt_tokens > 100);
  },
  async choicesLogprobsReasoning() {
    const two = await create({ messages: say(), n: 2 });
    assert.deepEqual(two.choices.map((choice) => choice.index), [0, 1]);
    const likely = await create({ messages: say("Hi\nsim: words=4"), logprobs: true, top_logprobs: 2 });
    assert.equal(likely.choices[0].logprobs.content.length, 4);
    const thought = await create({ messages: say("Think\nsim: reasoning=9") });
    assert.ok(thought.choices[0].message.reasoning_content);
    assert.equal(thought.usage.completion_tokens_details.reasoning_tokens, 9);
  },
  async bounds() {
    for (const name of ["max_tokens", "max_completion_tokens"]) {
      const cut = await create({ messages: say("Long"), [name]: 5 });
      assert.equal(cut.choices[0].finish_reason, "length");
      assert.equal(cut.usage.completion_tokens, 5);
    }
  },
  async models() {
    assert.deepEqual((await collect(await client.models.list())).map((entry) => entry.id), [model]);
    assert.equal((await client.models.retrieve("gpt-4o-mini")).pricing.output, "10.00");
  },
  async refusals() {
    const refused = async (kind, status, code, fields, options = {}) => {
      let requests = 0;
      const fetching = (...words) => ((requests += 1), fetch(...words));
      const asking = client.withOptions({ maxRetries: 2, fetch: fetching, ...options });
      const error = await asking.chat.completions.create({ model, messages: say(), ...fields }).catch((error) => error);
      assert.ok(error instanceof kind, `${code}: ${error}`);
      assert.deepEqual([error.status, error.code, requests], [status, code, 1]);
      return error;
    };
    await refused(OpenAI.AuthenticationError, 401, "UNAUTHENTICATED", {}, { apiKey: UNKNOWN_KEY });
    const bad = await refused(OpenAI.BadRequestError, 400, "INPUT_VALIDATION_ERROR", { temperature: "hot" });
    assert.equal(bad.param, "temperature");
    await refused(OpenAI.NotFoundError, 404, "NOT_FOUND", { model: "nobody-knows-this" });
    await refused(OpenAI.APIError, 402, "INSUFFICIENT_BALANCE", {}, { apiKey: POOR_KEY });
    const limited = { apiKey: LIMITED_KEY, maxRetries: 0 };
    await client.withOptions(limited).chat.completions.create({ model, messages: say() });
    await refused(OpenAI.RateLimitError, 429, "RATE_LIMITED", {}, limited);
  },
  async retry() {
    await withFault({ kind: "status", status: 500, count: 3 }, async () => {
      const completion = await create({ messages: say() }, { maxRetries: 1 });
      assert.ok(completion.choices[0].message.content);
    });
  },
  async brokenStream() {
    await withFault({ kind: "error_event", phase: "mid" }, async () => {
      const said = [];
      await assert.rejects(async () => {
        for await (const chunk of await create({ messages: say(), stream: true })) said.push(chunk);
      }, OpenAI.APIError);
      assert.ok(text(said));
      assert.ok(said.every((chunk) => chunk.choices[0].finish_reason === null));
    });
  },
  async responses() {
    const input = "Weather and time?\nsim: tools=3";
    const flat = tools.map(({ function: { name, parameters } }) => ({ type: "function", name, parameters, strict: false }));
    const plain = await client.responses.create({ model, input: "Say something." });
    assert.equal(plain.status, "completed");
    let said = "";
    for await (const event of await client.responses.create({ model, input: "Say something.", stream: true }))
      if (event.type === "response.output_text.delta") said += event.delta;
    assert.equal(said, plain.output_text);
    const final = await client.responses.stream({ model, input, tools: flat }).finalResponse();
    const calls = final.output.filter((item) => item.type === "function_call");
    assert.equal(calls.length, 3);
    calls.forEach((call) => JSON.parse(call.arguments));
    const results = calls.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "fine" }));
    const history = [{ role: "user", content: input }, ...final.output, ...results];
    assert.ok((await client.responses.create({ model, input: history })).output_text);
  },
};

const results = {};
for (const [name, check] of Object.entries(checks))
  results[name] = await check().then(() => "ok", (error) => String(error.stack));
console.log(JSON.stringify(results));
