// What went wrong, in the page's words. The server's own sentence comes along where it says what to change.
import { el } from "./dom.js";
import { count, t } from "./locale.js";

/** The children of an error message for a Failure. */
export function explain(failure) {
  const { status, message, seconds } = failure;
  if (status === 0) return [t("error_down")];
  if (status === 401) return [t("key_first")];
  if (status === 408) return [t("error_slow")];
  if (status === 413) return detailed(message ? "error_large" : "error_large_plain", message);
  if (status === 415) return [t("error_type")];
  if (status === 429) return [count("error_busy", seconds)];
  if (status === 502 || status === 503 || status === 504) return [t("error_unavailable")];
  if (status >= 500) return [t("error_server")];
  return detailed("error_bad", message);
}

function detailed(key, message) {
  if (!message) return [t(key)];
  const said = el("span", "said", message);
  said.lang = "en"; // the API speaks English
  return [t(key), " ", said];
}
