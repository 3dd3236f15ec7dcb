// The Vercel AI SDK as it comes, by four of its providers, against the gateway named in the environment. Prints JSON:
// check → "ok" or what was wrong.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
const { BASE_URL: baseURL, API_KEY: apiKey, MODEL } = process.env;
const openai = createOpenAI({ baseURL, apiKey });
const models = {
  chat: openai.chat(MODEL),
  responses: openai.responses(MODEL),
  compatible: createOpenAICompatible({ name: "waypost", baseURL, apiKey, supportsStructuredOutputs: true })(MODEL),
  messages: createAnthropic({ baseURL, apiKey })(MODEL),
};
// It refers to stored items otherwise, and nothing is stored.
const providerOptions = { openai: { store: false } };
const common = { maxRetries: 0, maxOutputTokens: 2000, providerOptions };
const tools = {
  get_weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `Rain in ${city}.`,
  }),
};

const checks = {
  async plain(model) {
    const { text, usage } = await generateText({ model, prompt: "Say something.", ...common });
    assert.ok(text);
    assert.ok(usage.totalTokens > 0);
  },
  async streamed(model) {
    const { text } = await generateText({ model, prompt: "Say something.", ...common });
    let said = "";
    for await (const piece of streamText({ model, prompt: "Say something.", ...common }).textStream) said += piece;
    assert.equal(said, text);
  },
  async tools(model) {
    const asked = { model, tools, prompt: "Weather?", stopWhen: stepCountIs(3), ...common };
    const { steps, text } = await generateText(asked);
    assert.equal(steps[0].toolCalls[0].toolName, "get_weather");
    assert.equal(steps[0].toolResults.length, steps[0].toolCalls.length);
    assert.ok(text);
    const result = streamText(asked);
    await result.consumeStream({ onError: (error) => assert.fail(String(error)) });
    assert.deepEqual(
      (await result.steps)[0].toolCalls.map(({ input }) => input),
      steps[0].toolCalls.map(({ input }) => input),
    );
  },
  async object(model) {
    const schema = z.object({ name: z.string(), count: z.number().int() });
    const { object } = await generateObject({ model, schema, prompt: "Ada, twice.", ...common });
    assert.ok(Number.isInteger(object.count));
  },
};

const results = {};
for (const [format, model] of Object.entries(models))
  for (const [name, check] of Object.entries(checks))
    results[`${format}: ${name}`] = await check(model).then(
      () => "ok",
      (error) => String(error.stack).slice(0, 600),
    );
console.log(JSON.stringify(results));
