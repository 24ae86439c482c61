// What the page says about the model.
import { ask } from "./api.js";
import { $, el, say } from "./dom.js";
import { explain } from "./failures.js";
import { count, date, decimal, integer, outOfHundred, shortPercent, t } from "./locale.js";

/** Write what `/v1/model` answered: one sentence above, the rest in its section. */
export function renderFacts(facts) {
  $("model").hidden = !facts;
  say($("headline"), facts && headline(facts));
  $("facts").replaceChildren(...(facts ? [tiles(facts), details(facts), labels(facts), ...card()] : []));
}

const score = (facts, name) => facts.metrics?.test?.[name] ?? null;

function ends(facts, name) {
  const [low, high] = ["low", "high"].map((end) => facts.metrics?.interval?.[`${name}_${end}`] ?? null);
  return low === null || high === null ? null : [low, high];
}

const testRows = (facts) => facts.metrics?.rows?.test ?? null;

function headline(facts) {
  const values = { labels: count("classes", facts.labels.length) };
  if (facts.task === "multilabel") return t("headline_multilabel", values);
  const [accuracy, rows] = [score(facts, "accuracy"), testRows(facts)];
  if (accuracy === null || rows === null) return t("headline_multiclass_plain", values);
  const share = integer(outOfHundred(accuracy));
  return t("headline_multiclass", { ...values, share, rows: count("messages", rows) });
}

function tiles(facts) {
  const tile = (name, value, note = null) =>
    el("div", "", el("dt", "", name), el("dd", "", el("span", "value", value), note && el("span", "within", note)));
  const interval = (name, write) => {
    const found = ends(facts, name);
    return found && t("interval", { low: write(found[0]), high: write(found[1]) });
  };
  const found = [tile(t("labels"), integer(facts.labels.length))];
  const third = (value) => decimal(value, 3);
  for (const [name, write] of [
    ["macro_f1", third],
    ["accuracy", (value) => shortPercent(outOfHundred(value) / 100)],
    ["micro_f1", third],
  ]) {
    const value = score(facts, name);
    if (value !== null && !(name === "micro_f1" && facts.task === "multiclass")) {
      found.push(tile(t(name), write(value), interval(name, write)));
    }
  }
  if (testRows(facts) !== null) found.push(tile(t("test_rows"), integer(testRows(facts))));
  return el("dl", "tiles", ...found);
}

function details(facts) {
  const hash = (digest) => {
    const short = el("code", "", t("sha256", { short: digest.slice(0, 12) }));
    short.title = digest;
    return short;
  };
  const rows = [
    ["task", t(`task_${facts.task}`)],
    ["abstention", limit(facts.abstention)],
    ["reads", t("reads_tokens", { n: integer(facts.max_length) })],
    ["backbone", t("backbone_licence", { backbone: facts.backbone, licence: facts.backbone_licence })],
    ["trained", facts.trained_at && date(facts.trained_at)],
    ["data", facts.training_data_sha256 && hash(facts.training_data_sha256)],
    ["file_of_model", [facts.name, " ", hash(facts.sha256)]],
    ["precision", t(`precision_${facts.precision}`)],
    ["version", facts.afina_version && `afina ${facts.afina_version}`],
  ];
  const shown = rows.filter(([, value]) => value);
  const pairs = shown.map(([key, value]) => el("div", "", el("dt", "", t(key)), el("dd", "", ...[value].flat())));
  return el("dl", "facts", ...pairs);
}

function limit(abstention) {
  if (!abstention) return t("abstention_none");
  const { below, target_accuracy: target } = abstention;
  if (below === null) return t("abstention_never");
  if (below === 0) return t("abstention_none");
  if (target === null) return t("abstention_from", { limit: shortPercent(below) });
  return t("abstention_target", { limit: shortPercent(below), target: shortPercent(target) });
}

function labels(facts) {
  const names = facts.labels.map((name) => {
    const threshold = facts.thresholds?.[name];
    const note = threshold === undefined ? null : el("span", "within", t("threshold_is", { limit: shortPercent(threshold) }));
    return el("li", "", name, note && " ", note);
  });
  return el("details", "", el("summary", "", t("all_labels")), el("ul", "names", ...names));
}

function card() {
  const link = el("a", "", t("card"));
  const error = el("p", "wrong");
  error.setAttribute("role", "alert");
  error.hidden = true;
  link.href = "/model-card";
  link.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
    event.preventDefault(); // a link does not send the key
    say(error);
    try {
      const text = await (await ask("/model-card", { headers: { Accept: "text/markdown" } })).text();
      $("card-text").textContent = text.replace(/^---\n[^]*?\n---\n+/, ""); // the head is for programs
      $("card").showModal();
    } catch (failure) {
      if (failure.status === undefined) throw failure;
      say(error, ...(failure.status === 404 ? [t("error_card")] : explain(failure)));
    }
  });
  return [el("p", "", link), error];
}
