// The Anthropic SDK for Node as it comes, against the gateway named in the environment, over a provider of the openai kind
// (`swift-1`) and two of the anthropic kind. Prints JSON: check → "ok" or what was wrong.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const { BASE_URL, API_KEY, POOR_KEY, LIMITED_KEY, UNKNOWN_KEY, SIM_URL } = process.env;
const baseURL = BASE_URL.replace(/\/v1$/, "");
const models = ["swift-1", "delta", "epsilon"];
const client = new Anthropic({ baseURL, apiKey: API_KEY, maxRetries: 0 });
const with_key = (apiKey) => new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const say = (text = "Say something.") => [{ role: "user", content: text }];
const body = (model, messages, fields) => ({ model, max_tokens: 8192, messages, ...fields });
const tools = [
  { name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
  { name: "get_time", input_schema: { type: "object" } },
];
const thinking = { type: "enabled", budget_tokens: 2048 };

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
    for (const model of models) {
      const message = await client.messages.create(body(model, say()));
      assert.ok(message.content[0].text);
      assert.equal(message.stop_reason, "end_turn");
      assert.equal(message.model, model);
      assert.match(message.id, /^msg_/);
      assert.match(message._request_id, /^req_/);
      assert.ok(Number(message.usage.cost) > 0);
    }
  },
  async streamed() {
    for (const model of models) {
      const plain = await client.messages.create(body(model, say()));
      const final = await client.messages.stream(body(model, say())).finalMessage();
      assert.deepEqual(final.content, plain.content);
      assert.equal(final.usage.output_tokens, plain.usage.output_tokens);
      assert.equal(final.usage.input_tokens, plain.usage.input_tokens);
    }
  },
  async events() {
    const seen = [];
    for await (const event of await client.messages.create({ ...body("delta", say()), stream: true })) seen.push(event.type);
    assert.equal(seen[0], "message_start");
    assert.equal(seen.at(-1), "message_stop");
  },
  async tools_and_thinking() {
    for (const model of models) {
      const asked = say("Weather and time?\nsim: tools=2");
      const first = await client.messages.stream(body(model, asked, { tools, thinking })).finalMessage();
      const [thought, weather, time] = first.content;
      assert.ok(thought.thinking && thought.signature);
      assert.equal(typeof weather.input.city, "string");
      assert.deepEqual(time.input, {});
      const content = [
        { type: "tool_result", tool_use_id: weather.id, content: "sunny" },
        { type: "tool_result", tool_use_id: time.id, content: "no clock", is_error: true },
      ];
      const history = [...say("Weather and time?"), { role: "assistant", content: first.content }, { role: "user", content }];
      const last = await client.messages.create(body(model, history, { tools, thinking }));
      assert.deepEqual(last.content.map((block) => block.type), ["thinking", "text"]);
    }
  },
  async count_tokens() {
    const { input_tokens } = await client.messages.countTokens({ model: "delta", messages: say(), tools });
    assert.ok(input_tokens > 0);
  },
  async models() {
    const listed = [];
    for await (const entry of client.models.list({ limit: 2 })) listed.push(entry.id);
    assert.deepEqual(listed.toSorted(), models.toSorted());
    assert.equal((await client.models.retrieve("delta")).type, "model");
  },
  async errors() {
    await assert.rejects(client.messages.create(body("nothing", say())), Anthropic.NotFoundError);
    await assert.rejects(client.messages.create(body("delta", [])), Anthropic.BadRequestError);
    await assert.rejects(with_key(UNKNOWN_KEY).messages.create(body("delta", say())), Anthropic.AuthenticationError);
    await assert.rejects(with_key(POOR_KEY).messages.create(body("delta", say())), { status: 402 });
    const hasty = with_key(LIMITED_KEY);
    await hasty.messages.create(body("delta", say()));
    await assert.rejects(hasty.messages.create(body("delta", say())), Anthropic.RateLimitError);
  },
  async broken_stream() {
    await withFault({ kind: "error_event", phase: "mid", count: 0, style: "delta" }, async () => {
      await assert.rejects(client.messages.stream(body("delta", say())).finalMessage(), Anthropic.APIError);
    });
  },
};

const results = {};
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    results[name] = "ok";
  } catch (error) {
    results[name] = error.stack;
  }
}
console.log(JSON.stringify(results));
