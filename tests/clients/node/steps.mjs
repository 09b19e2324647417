// Runs one step of a program and prints a JSON object: the step's result or its error.
export async function step(name, run) {
  const line = { step: name };
  try {
    line.result = await run();
  } catch (error) {
    line.error = {
      kind: error.constructor.name,
      status: error.status ?? error.statusCode ?? null,
      code: error.code ?? null,
      param: error.param ?? null,
      message: String(error.message).slice(0, 2000),
    };
  }
  console.log(JSON.stringify(line));
}

export const { BASE_URL, API_KEY, CHAT_KEY, SMALL_KEY } = process.env;
export const MODEL = "smollm2-135m-instruct";
export const QUESTION = "What is the capital of France?";
export const WEATHER_QUESTION = "How is it in Paris?";
