// Images and embeddings with the official SDK for Node.
import OpenAI from "openai";
import { API_KEY, BASE_URL, CHAT_KEY, MODEL, SMALL_KEY, step } from "./steps.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const withKey = (apiKey) => client.withOptions({ apiKey });

const request = { model: "shapes", prompt: "a red circle", num_inference_steps: 6, seed: 7 };
const texts = { model: "all-minilm-l6-v2", input: "hello world" };
const ids = [7592, 2088]; // hello world
const toBytes = (encoded) => Buffer.from(encoded, "base64");

const generated = await client.images.generate(request);
const image = () => new File([toBytes(generated.data[0].b64_json)], "circle.png", { type: "image/png" });

const calls = {
  generate: (more, by = client) => by.images.generate({ ...request, ...more }),
  edit: (more, by = client) => by.images.edit({ ...request, image: image(), ...more }),
  embed: (more, by = client) => by.embeddings.create({ ...texts, ...more }),
};

// The first 12 bytes of an image identify its format.
const describe = ({ data, size, output_format }) => ({
  heads: data.map((each) => toBytes(each.b64_json).toString("latin1", 0, 12)),
  urls: data.map((each) => each.url),
  size,
  output_format,
});

async function readStream(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return {
    types: events.map((event) => event.type),
    indexes: events.slice(0, -1).map((event) => event.partial_image_index),
    last: events.at(-1).b64_json,
  };
}

for (const name of ["generate", "edit"]) {
  const call = calls[name];
  await step(`${name}_plain`, async () => describe(await call({})));
  await step(`${name}_two`, async () => describe(await call({ n: 2 })));
  await step(`${name}_webp`, async () => describe(await call({ output_format: "webp" })));
  await step(`${name}_jpeg`, async () =>
    describe(await call({ output_format: "jpeg", output_compression: 50 })),
  );
  await step(`${name}_whole`, async () => (await call({})).data[0].b64_json);
  await step(`${name}_stream`, async () =>
    readStream(await call({ stream: true, partial_images: 2 })),
  );
}

await step("generate_sized", async () => describe(await calls.generate({ size: "64x48" })));

// A mask without an alpha channel: its white pixels are redrawn.
await step("edit_masked", async () => describe(await calls.edit({ mask: image() })));
await step("edit_listed", async () => describe(await calls.edit({ image: [image()] })));

const forms = { text: "hello world", texts: ["hello world", "a"], ids, lists: [ids, ids, [7592]] };
for (const [form, input] of Object.entries(forms)) {
  await step(`embed_${form}`, async () => {
    const byDefault = await calls.embed({ input });
    const floats = await calls.embed({ input, encoding_format: "float" });
    const coded = await calls.embed({ input, encoding_format: "base64" });
    const toHex = (values) => Buffer.from(Float32Array.from(values).buffer).toString("hex");
    return {
      lengths: byDefault.data.map((each) => each.embedding.length),
      indexes: byDefault.data.map((each) => each.index),
      tokens: byDefault.usage.prompt_tokens,
      byDefault: byDefault.data.map((each) => toHex(each.embedding)),
      floats: floats.data.map((each) => toHex(each.embedding)),
      coded: coded.data.map((each) => toBytes(each.embedding).toString("hex")),
    };
  });
}

for (const [name, call] of Object.entries(calls)) {
  await step(`${name}_unknown_parameter`, () => call({ colour: "red" }));
  await step(`${name}_other_kind`, () => call({ model: MODEL }));
  await step(`${name}_unknown_model`, () => call({ model: "dall-e-3" }));
  await step(`${name}_wrong_key`, () => call({}, withKey("sk-wrong")));
  await step(`${name}_chat_key`, () => call({}, withKey(CHAT_KEY)));
  await step(`${name}_small_key`, () => call(name === "embed" ? {} : { n: 2 }, withKey(SMALL_KEY)));
}
await step("generate_size", () => calls.generate({ size: "65x64" }));
await step("edit_invalid_image", () => calls.edit({ image: new File(["RIFF....WAVE"], "a.png") }));
await step("embed_dimensions", () => calls.embed({ dimensions: 128 }));
await step("embed_too_long", () => calls.embed({ input: ["a", "word ".repeat(300)] }));
