// A file with many messages: it goes to the server, which answers row by row.
import { predictFile } from "./api.js";
import { Summary } from "./csv.js";
import { $, bar, el, list, say } from "./dom.js";
import { explain } from "./failures.js";
import { count, integer, percent, size, t } from "./locale.js";

const FIRST = 12; // bars shown at first

/**
 * The part of the page about a file.
 * @param facts gives what `/v1/model` answered, or null
 * @param onKey is called where the server asks for a key
 */
export class Upload {
  #file = null;
  #call = null; // the request under way
  #columns = null; // to choose from
  #going = null; // {done, rows}: how far the answer is; rows is null where it is not known
  #result = null; // {name, column, summary, url}
  #failure = null; // a function that gives the words of what is wrong

  constructor({ facts, onKey }) {
    Object.assign(this, { facts, onKey });
    const [zone, input] = [$("drop"), $("upload")];
    // Where numbers have a decimal comma, Excel takes a semicolon for what stands between cells.
    const decimalComma = new Intl.NumberFormat(navigator.language).format(0.5).includes(",");
    $("delimiter").value = decimalComma ? ";" : ",";
    input.addEventListener("change", () => {
      if (input.files.length) this.#take(input.files);
      input.value = ""; // so that the same file can be chosen again
    });
    // Dropped beside the zone, a file would replace the page.
    for (const name of ["dragover", "drop"]) {
      window.addEventListener(name, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        if (name === "dragover") event.dataTransfer.dropEffect = zone.contains(event.target) ? "copy" : "none";
      });
    }
    zone.addEventListener("dragover", () => zone.classList.add("over"));
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      zone.classList.remove("over");
      if (event.dataTransfer.files.length) this.#take(event.dataTransfer.files);
    });
    $("file-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#columns) this.#send($("column").value);
    });
    $("cancel").addEventListener("click", () => {
      this.#stop();
      this.#fail(() => [t("canceled")]);
      $("upload").focus();
    });
  }

  /** Ask again, where a key was missing. */
  again() {
    if (this.#failure && this.#file) this.#send(null);
  }

  /** Write it all in the page's language. */
  render() {
    say($("file-error"), ...(this.#failure ? this.#failure() : []));
    $("columns").hidden = !this.#columns;
    if (this.#columns) {
      $("column-label").textContent = t("columns", { name: this.#file.name });
      const chosen = $("column").value;
      const options = this.#columns.map((name, at) => new Option(title(name, at, this.#columns), at));
      $("column").replaceChildren(...options);
      $("column").value = options[chosen] ? chosen : "0";
    }
    $("progress").hidden = !this.#going;
    this.#move();
    // Spoken: the beginning and the end, not every row.
    $("file-status").textContent = this.#result ? headline(this.#result) : this.#going ? $("progress-text").textContent : "";
    $("summary").hidden = !this.#result;
    $("summary").replaceChildren(...(this.#result ? summary(this.#result, this.facts()) : []));
  }

  #take(files) {
    this.#stop();
    this.#forget();
    this.#file = null;
    if (files.length > 1) {
      this.#fail(() => [t("one_file")]);
      return;
    }
    const [file] = files;
    if (file.size === 0) {
      this.#fail(() => [t("file_empty", { name: file.name })]);
      return;
    }
    this.#file = file;
    $("column").replaceChildren(); // what was chosen for another file
    this.#send(null);
  }

  /** Send the file; `column` is the position of the one with the texts, null where the server has to find it. */
  async #send(column) {
    this.#stop();
    this.#forget();
    const call = (this.#call = new AbortController());
    const file = this.#file;
    this.#going = { done: 0, rows: null };
    this.render();
    const delimiter = $("delimiter").value;
    const found = new Summary(this.facts()?.labels ?? null, delimiter);
    try {
      const response = await predictFile(file, { column, delimiter }, call.signal);
      const rows = response.headers.get("X-Rows");
      const parts = await this.#read(response, found, rows === null ? null : Number(rows), call);
      if (call !== this.#call) return;
      const result = new Blob(parts, { type: "text/csv;charset=utf-8" });
      const named = oneLine(decodeURIComponent(response.headers.get("X-Column") ?? ""));
      this.#result = { name: file.name, column: named, summary: found, url: URL.createObjectURL(result) };
    } catch (error) {
      if (call !== this.#call || error.name === "AbortError") return;
      this.#wrong(error, found, column !== null);
      return;
    }
    this.#call = this.#going = null;
    this.render();
    $("summary").focus();
  }

  /** The parts of the answer; as they come they are counted. */
  async #read(response, found, rows, call) {
    const parts = [];
    const reader = response.body.getReader();
    this.#going = { done: 0, rows };
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Broken();
      }
      if (call !== this.#call) return parts;
      if (part.done) break;
      parts.push(part.value);
      found.push(part.value);
      this.#going.done = found.rows;
      this.#move();
    }
    found.finish();
    if (rows !== null && found.rows !== rows) throw new Broken();
    return parts;
  }

  #wrong(error, found, chosen) {
    if (error instanceof Broken) {
      const done = found.rows;
      this.#fail(() => [t("broken", { done: integer(done) })]);
    } else if (error.status === undefined) {
      this.#fail(() => [t("error_server")]);
      throw error; // a mistake in this page
    } else if (error.status === 400 && error.columns?.length) {
      this.#call = this.#going = null;
      this.#columns = error.columns;
      // Asked again after a choice: without the reason it would look as if nothing had happened.
      if (chosen) this.#failure = () => explain(error);
      this.render();
      $("column").focus();
    } else {
      this.#fail(() => explain(error));
      if (error.status === 401) this.onKey();
    }
  }

  #fail(failure) {
    this.#forget();
    this.#failure = failure;
    this.render();
  }

  #forget() {
    if (this.#result) URL.revokeObjectURL(this.#result.url);
    this.#call = this.#going = this.#columns = this.#result = this.#failure = null;
  }

  #stop() {
    this.#call?.abort();
    this.#call = null;
  }

  #move() {
    if (!this.#going) return;
    const { done, rows } = this.#going;
    const [line, progress] = [$("progress-text"), $("progress-bar")];
    if (rows === null && done === 0) {
      line.textContent = t("sending", { name: this.#file.name, size: size(this.#file.size) });
    } else if (rows === null) line.textContent = t("progress_open", { done: integer(done) });
    else line.textContent = t("progress", { done: integer(done), rows: integer(rows) });
    if (rows === null) progress.removeAttribute("value");
    else {
      progress.max = Math.max(rows, 1);
      progress.value = done;
    }
  }
}

const LONGEST = 60; // characters of a column's name

/** What a column is called where one is chosen: its name, and its number where the name is not enough. */
function title(name, at, names) {
  const whole = oneLine(name);
  const number = t("column_number", { n: integer(at + 1) });
  if (!whole) return number;
  const short = cut(whole);
  return names.filter((other) => other === name).length > 1 || short !== whole ? `${short} (${number})` : short;
}

const oneLine = (name) => name.replace(/\s+/g, " ").trim();

const cut = (name) => (name.length > LONGEST ? `${name.slice(0, LONGEST)}…` : name);

/** The answer ended before its end. */
class Broken extends Error {}

function headline({ name, summary: { rows } }) {
  return t("done", { name, messages: count("done_messages", rows) });
}

function summary(result, facts) {
  const { name, column, url, summary: found } = result;
  const title = el("h3", "", headline(result));
  title.id = "summary-title";
  const link = el("a", "main", t("download"));
  link.href = url;
  link.download = `${name.replace(/\.[^.]*$/, "")}_${t("suffix")}.csv`;
  const people = found.person
    ? el("p", "person", count("for_person", found.person, { share: percent(found.person / found.rows) }))
    : facts?.abstention && found.rows
      ? el("p", "good", t("for_nobody"))
      : null;
  // Without a header the first message is taken for the column's name: seen here, it is noticed.
  const read = column ? [el("p", "column hint", t("column_read", { name: cut(column) }))] : [];
  return [title, ...read, ...(people ? [people] : []), el("p", "", link), ...(found.rows ? chart(found, facts) : [])];
}

function chart(found, facts) {
  const classes = [...found.classes].sort(([, one], [, other]) => other.rows - one.rows);
  const most = classes[0][1].rows;
  const rows = classes.map(([name, { rows: all, person }]) => {
    const share = percent(all / found.rows);
    return el(
      "li",
      "",
      el("span", "name", name || t("none_short")),
      bar({ share: (all - person) / most, rest: person / most }),
      el("span", "num", integer(all), " ", el("span", "share", share)),
      el("span", "hidden", `${t("legend_person")}: ${integer(person)}`),
    );
  });
  const entry = (kind, text) => el("span", "entry", el("span", `swatch ${kind}`), text);
  const legend = el("p", "legend", entry("alone", t("legend_alone")), entry("doubtful", t("legend_person")));
  return [
    el("h4", "", t("counts")),
    ...(found.person ? [legend] : []),
    ...list(rows, FIRST, t("show_all", { n: integer(rows.length) }), t("show_fewer")),
    ...(facts?.task === "multilabel" ? [el("p", "hint", t("counts_several"))] : []),
  ];
}
