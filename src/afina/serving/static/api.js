// What the page asks of the server.

const KEY = "afina.key";

let key = null;
try {
  key = sessionStorage.getItem(KEY);
} catch {
  // Storage is forbidden: the key lasts as long as the page.
}

export const hasKey = () => key !== null;

/** Send this key from now on; null: none. It is kept in this tab's session and nowhere else. */
export function setKey(value) {
  key = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // As above.
  }
}

/** An answer that is none. `status` is 0 where the server did not answer. */
export class Failure extends Error {
  constructor(status, { code = "", message = "", columns = null } = {}, seconds = 1) {
    super(message);
    Object.assign(this, { status, code, columns, seconds });
  }
}

/**
 * Ask, and give back the answer's Response.
 * @throws {Failure} the server did not answer, or answered that something is wrong
 * @throws {DOMException} the request was called off
 */
export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key !== null) headers["X-API-Key"] = key;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0);
  }
  if (response.ok) return response;
  let body = {};
  try {
    body = (await response.json()).error ?? {};
  } catch (error) {
    if (error.name === "AbortError") throw error;
    // Not from this server: a proxy between, perhaps. The status says enough.
  }
  throw new Failure(response.status, body, seconds(response.headers.get("Retry-After")));
}

const seconds = (header) => (/^\d+$/.test(header ?? "") ? Math.max(1, Number(header)) : 1);

export async function model(signal) {
  return (await ask("/v1/model", { signal })).json();
}

export async function predict(text, topK, signal) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ text, top_k: topK });
  return (await ask("/v1/predict", { method: "POST", headers, body, signal })).json();
}

export async function predictFile(file, { column, delimiter }, signal) {
  const form = new FormData();
  // Fields before the file, so that the server knows them when the file begins.
  form.append("bom", "true");
  form.append("delimiter", delimiter);
  // By position: a form changes line ends in a name, and names may be empty or occur twice.
  if (column !== null) form.append("column_index", column);
  form.append("file", file, file.name);
  return ask("/v1/predict/file", { method: "POST", body: form, signal });
}
