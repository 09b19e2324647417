// Chat and completions with the official SDK for Node.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { API_KEY, BASE_URL, MODEL, QUESTION, WEATHER_QUESTION, step } from "./steps.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const completions = client.chat.completions;

const greedy = { model: MODEL, temperature: 0, max_tokens: 128 };
const chat = { ...greedy, messages: [{ role: "user", content: QUESTION }] };
const askForWeather = { ...greedy, messages: [{ role: "user", content: WEATHER_QUESTION }] };

// Bounded types only, so that even a small model's answer ends.
const Weather = z.object({
  sky: z.enum(["sunny", "cloudy", "rainy"]),
  is_cold: z.boolean(),
  degrees: z.number().int().min(0).max(40),
});
const City = z.object({ city: z.enum(["Paris", "Rome"]) });
const tools = [zodFunction({ name: "get_time", parameters: City })];
const tool_choice = { type: "function", function: { name: "get_time" } };

const toCalls = (choice) =>
  choice.message.tool_calls.map((call) => ({
    id: call.id,
    name: call.function.name,
    args: call.function.parsed_arguments,
    reason: choice.finish_reason,
  }));

await step("chat", async () => {
  const answer = await completions.create(chat);
  return { text: answer.choices[0].message.content, usage: answer.usage };
});

await step("stream", async () => {
  const stream = await completions.create({
    ...chat,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, usage };
});

await step("stream_helper", async () => {
  const deltas = [];
  const stream = completions.stream(chat).on("content", (delta) => deltas.push(delta));
  return { text: await stream.finalContent(), deltas };
});

await step("parse", async () => {
  const answer = await completions.parse({
    ...askForWeather,
    response_format: zodResponseFormat(Weather, "weather"),
  });
  return answer.choices[0].message.parsed;
});

await step("streamed_parse", async () => {
  const stream = completions.stream({
    ...askForWeather,
    response_format: zodResponseFormat(Weather, "weather"),
  });
  return (await stream.finalChatCompletion()).choices[0].message.parsed;
});

await step("named_tool", async () =>
  toCalls((await completions.parse({ ...askForWeather, tools, tool_choice })).choices[0]),
);

await step("required_tool", async () =>
  toCalls(
    (await completions.parse({ ...askForWeather, tools, tool_choice: "required" })).choices[0],
  ),
);

await step("streamed_tool", async () => {
  const stream = completions.stream({ ...askForWeather, tools, tool_choice });
  return toCalls((await stream.finalChatCompletion()).choices[0]);
});

await step("run_tools", async () => {
  const runner = completions.runTools({
    ...askForWeather,
    tools: [
      zodFunction({ name: "get_time", parameters: City, function: ({ city }) => `noon in ${city}` }),
    ],
    tool_choice,
  });
  return await runner.finalFunctionToolCallResult();
});

await step("completion", async () => {
  const answer = await client.completions.create({ ...greedy, prompt: "The sun", max_tokens: 4 });
  return answer.choices[0].text;
});

await step("models", async () => (await client.models.list()).data.map((model) => model.id));

await step("unknown_parameter", () => completions.create({ ...chat, no_such_thing: 1 }));
await step("unknown_model", () => completions.create({ ...chat, model: "gpt-9" }));
await step("wrong_key", () => client.withOptions({ apiKey: "sk-wrong" }).models.list());
