// Requests with the Vercel AI SDK and its provider for OpenAI-compatible services.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  Output,
  embed,
  embedMany,
  generateImage,
  generateObject,
  generateText,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from "ai";
import { z } from "zod";
import { API_KEY, BASE_URL, MODEL, QUESTION, WEATHER_QUESTION, step } from "./steps.mjs";

const settings = { name: "triptych", baseURL: BASE_URL, apiKey: API_KEY };
const provider = createOpenAICompatible({
  ...settings,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider(MODEL);
const greedy = { model, temperature: 0, maxOutputTokens: 128, maxRetries: 0 };

// Bounded types only, so that even a small model's answer ends.
const weather = z.object({
  sky: z.enum(["sunny", "cloudy", "rainy"]),
  is_cold: z.boolean(),
  degrees: z.number().int().min(0).max(40),
});
const get_time = tool({
  description: "Look up the time in a city.",
  inputSchema: z.object({ city: z.enum(["Paris", "Rome"]) }),
  execute: ({ city }) => `noon in ${city}`,
});
const askWithTool = { ...greedy, prompt: WEATHER_QUESTION, tools: { get_time } };
const named = { type: "tool", toolName: "get_time" };

// The SDK's streams do not throw: they pass errors to a callback.
function throwing() {
  const errors = [];
  return {
    onError: ({ error }) => errors.push(error),
    check: () => {
      if (errors.length) throw errors[0];
    },
  };
}

const toCalls = ({ toolCalls, toolResults, finishReason }) => ({
  calls: toolCalls.map((call) => ({ id: call.toolCallId, name: call.toolName, args: call.input })),
  results: toolResults.map((result) => result.output),
  reason: finishReason,
});

await step("chat", async () => {
  const { text, usage, finishReason } = await generateText({ ...greedy, prompt: QUESTION });
  return { text, usage, reason: finishReason };
});

await step("stream", async () => {
  const { onError, check } = throwing();
  const stream = streamText({ ...greedy, prompt: QUESTION, onError });
  let text = "";
  for await (const delta of stream.textStream) text += delta;
  check();
  return { text, usage: await stream.usage, reason: await stream.finishReason };
});

await step("object", async () => {
  const { object } = await generateObject({ ...greedy, prompt: WEATHER_QUESTION, schema: weather });
  return object;
});

await step("output", async () => {
  const output = Output.object({ schema: weather });
  return (await generateText({ ...greedy, prompt: WEATHER_QUESTION, output })).output;
});

await step("streamed_object", async () => {
  const { onError, check } = throwing();
  const stream = streamObject({ ...greedy, prompt: WEATHER_QUESTION, schema: weather, onError });
  let last = null;
  for await (const partial of stream.partialObjectStream) last = partial;
  check();
  return last;
});

// By default (no supportsStructuredOutputs) the provider sends `json_object` without a schema.
await step("object_by_default", async () => {
  const { warnings, response } = await generateText({
    ...greedy,
    model: createOpenAICompatible(settings)(MODEL),
    prompt: `${WEATHER_QUESTION} Answer with a short JSON object.`,
    output: Output.json(),
  });
  return { warnings, model: response.modelId };
});

await step("named_tool", async () =>
  toCalls(await generateText({ ...askWithTool, toolChoice: named })),
);

await step("required_tool", async () =>
  toCalls(await generateText({ ...askWithTool, toolChoice: "required" })),
);

await step("streamed_tool", async () => {
  const { onError, check } = throwing();
  const stream = streamText({ ...askWithTool, toolChoice: named, onError });
  await stream.consumeStream();
  check();
  return toCalls({
    toolCalls: await stream.toolCalls,
    toolResults: await stream.toolResults,
    finishReason: await stream.finishReason,
  });
});

// The call and its result are sent back to the model, which then answers in text.
await step("tool_loop", async () => {
  const { steps, text } = await generateText({
    ...askWithTool,
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? named : "none" }),
  });
  return { steps: steps.length, text };
});

await step("completion", async () => {
  const options = { ...greedy, model: provider.completionModel(MODEL), maxOutputTokens: 4 };
  return (await generateText({ ...options, prompt: "The sun" })).text;
});

await step("embeddings", async () => {
  const embedder = provider.embeddingModel("all-minilm-l6-v2");
  const one = await embed({ model: embedder, value: "one", maxRetries: 0 });
  const two = await embedMany({ model: embedder, values: ["one", "two"], maxRetries: 0 });
  return [one.embedding.length, ...two.embeddings.map((each) => each.length)];
});

await step("image", async () => {
  const options = { model: provider.imageModel("shapes"), maxRetries: 0 };
  const { image } = await generateImage({ ...options, prompt: "a red circle" });
  return image.mediaType;
});

await step("unknown_model", () =>
  generateText({ ...greedy, model: provider("gpt-9"), prompt: QUESTION }),
);

await step("wrong_key", () =>
  generateText({
    ...greedy,
    model: createOpenAICompatible({ ...settings, apiKey: "sk-wrong" })(MODEL),
    prompt: QUESTION,
  }),
);
