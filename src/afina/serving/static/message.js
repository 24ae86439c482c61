// One message: what is typed goes to the server, its answer becomes bars.
import { predict } from "./api.js";
import { $, bar, el, list, say } from "./dom.js";
import { explain } from "./failures.js";
import { count, integer, percent, shortPercent, t } from "./locale.js";

const PAUSE = 400; // ms without a key before an answer is asked for
const FIRST = 5; // bars shown at first
const RETRIES = 5; // of a busy server
const ALL = 10_000; // labels to ask for: all of them

/**
 * The part of the page about one message.
 * @param facts gives what `/v1/model` answered, or null
 * @param onModel is called with the `model` of each answer
 * @param onKey is called where the server asks for a key
 */
export class Message {
  #call = null; // the request under way
  #timer = 0;
  #answered = null; // {text, prediction} that is shown
  #failure = null; // what is shown instead: a function that gives its words
  #shown = ""; // the text that the answer or failure is about

  constructor({ facts, onModel, onKey }) {
    Object.assign(this, { facts, onModel, onKey });
    this.area = $("text");
    this.area.addEventListener("input", () => this.#changed());
    this.area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      $("text-form").requestSubmit();
    });
    $("text-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    $("live").addEventListener("change", () => this.#changed());
  }

  /** Ask again, where a text is waiting for an answer: a key came in, the model changed. */
  again() {
    if (this.#failure || (this.#answered && this.#shown === this.area.value)) this.send();
  }

  /** Write it all in the page's language. */
  render() {
    this.area.placeholder = t("text_place");
    if (this.#failure) say($("text-error"), ...this.#failure());
    else say($("text-error"));
    const answered = this.#answered;
    $("answer-empty").hidden = Boolean(answered || this.#failure);
    $("answer-body").hidden = !answered;
    $("answer-body").replaceChildren(...(answered ? this.#answer(answered) : []));
    // A failure has role=alert; an answer is spoken in short, not bar by bar.
    $("answer-status").textContent = answered ? spoken(answered.prediction) : "";
    this.#age();
  }

  /** Send the text as it is. Whatever was on its way is called off, so no answer comes late. */
  async send(retries = 0) {
    this.#stop();
    const text = this.area.value;
    if (!text.trim()) {
      this.#show({ failure: () => [t("text_missing")], text });
      this.area.focus();
      return;
    }
    const call = (this.#call = new AbortController());
    $("answer").setAttribute("aria-busy", "true");
    try {
      const { model, predictions } = await predict(text, ALL, call.signal);
      if (call !== this.#call) return;
      this.#show({ prediction: predictions[0], text });
      this.onModel(model);
    } catch (error) {
      if (call !== this.#call || error.name === "AbortError") return;
      this.#fail(error, text, retries);
    }
  }

  #fail(error, text, retries) {
    if (error.status === undefined) {
      this.#show({ text });
      throw error; // a mistake in this page
    }
    const again = error.status === 429 && retries < RETRIES;
    const failure = again ? () => [count("error_busy_again", error.seconds)] : () => explain(error);
    this.#show({ failure, text });
    if (again) this.#timer = setTimeout(() => this.send(retries + 1), 1000 * error.seconds);
    if (error.status === 401) this.onKey();
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#call?.abort();
    this.#call = null;
    $("answer").setAttribute("aria-busy", "false");
  }

  #changed() {
    this.#stop();
    if (!this.area.value.trim()) {
      this.#show({ text: "" });
      return;
    }
    this.#age();
    if ($("live").checked && this.area.value !== this.#shown) this.#timer = setTimeout(() => this.send(), PAUSE);
  }

  #show({ prediction = null, failure = null, text }) {
    this.#call = null;
    $("answer").setAttribute("aria-busy", "false");
    this.#shown = text;
    this.#answered = prediction && { text, prediction };
    this.#failure = failure;
    this.render();
  }

  #age() {
    const old = Boolean(this.#answered) && this.area.value !== this.#shown;
    $("answer").classList.toggle("old", old);
    const note = $("answer-body").querySelector(".older");
    if (note) note.hidden = !old || $("live").checked;
  }

  #answer({ prediction }) {
    const facts = this.facts();
    const several = Boolean(facts?.thresholds);
    const older = el("p", "older", t("older"));
    older.hidden = true;
    return [
      older,
      verdict(prediction),
      ...person(prediction, facts, several),
      ...(prediction.truncated ? [el("p", "note", t("truncated", { n: integer(facts?.max_length ?? 0) }))] : []),
      el("h4", "", t("probabilities")),
      ...bars(prediction, facts, several),
    ];
  }
}

function spoken(prediction) {
  const names = prediction.labels.map(({ label, probability }) =>
    t("spoken", { label, probability: percent(probability) }),
  );
  if (names.length === 0) names.push(`${t("none")}.`);
  if (prediction.needs_person) names.push(`${t("person")}.`);
  return names.join(" ");
}

function verdict({ labels }) {
  if (labels.length === 0) return el("p", "verdict", t("none"));
  return el(
    "p",
    "verdict",
    ...labels.flatMap(({ label, probability }, place) => [
      ...(place ? [" "] : []),
      el("span", "one", el("strong", "", label), " ", el("span", "num", percent(probability))),
    ]),
  );
}

/** Whether a person has to decide, why, and what that means. */
function person(prediction, facts, several) {
  const limit = facts?.abstention?.below ?? null;
  const target = facts?.abstention?.target_accuracy ?? null;
  const values = { confidence: percent(prediction.confidence), limit: shortPercent(limit ?? 0) };
  if (!prediction.needs_person) {
    return limit ? [el("p", "good", t("alone", values))] : [];
  }
  let why;
  if (!facts?.abstention) why = t("person_unknown", values);
  else if (limit === null) {
    const asked = target === null ? "" : t("person_always_target", { target: shortPercent(target) });
    why = t("person_always", { target: asked });
  } else if (target === null) why = t("person_plain", values);
  else why = t(several ? "person_multilabel" : "person_multiclass", { ...values, target: shortPercent(target) });
  return [el("div", "person", el("p", "what", t("person")), el("p", "", why))];
}

function bars(prediction, facts, several) {
  const assigned = new Set(prediction.labels.map(({ label }) => label));
  const limit = several ? null : (facts?.abstention?.below ?? null);
  const threshold = (label) => (several ? facts.thresholds[label] : limit) ?? null;
  // What is assigned is always among the first: with several labels it may have a low threshold.
  const shown = prediction.top.filter(({ label }, place) => place < FIRST || assigned.has(label));
  const late = prediction.top.filter((score) => !shown.includes(score));
  const rows = [...shown, ...late].map(({ label, probability }) => {
    const mark = threshold(label);
    const row = el(
      "li",
      assigned.has(label) ? "assigned" : "",
      el("span", "name", label),
      bar({ share: probability, mark }),
      el("span", "num", percent(probability)),
    );
    if (several && mark !== null) row.append(el("span", "hidden", t("threshold_is", { limit: shortPercent(mark) })));
    if (several && assigned.has(label)) row.append(el("span", "hidden", t("assigned")));
    return row;
  });
  const legend = several ? t("legend_thresholds") : limit && t("legend_limit", { limit: shortPercent(limit) });
  const more = t("show_all", { n: integer(prediction.top.length) });
  const key = legend && el("p", "legend", el("span", "entry", el("span", "swatch line"), legend));
  return [...list(rows, shown.length, more, t("show_fewer")), ...(key ? [key] : [])];
}
