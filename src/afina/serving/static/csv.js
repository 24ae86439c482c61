// The server's CSV, read as it comes in.

/** Records of a CSV given in parts; fields may hold delimiters, quotes and line ends. */
export class CsvReader {
  #field = "";
  #record = [];
  #quoted = false; // inside quotes
  #closing = false; // after a quote inside quotes: the field's end, or the first of two
  #started = false; // the field has begun

  constructor(delimiter = ",") {
    this.delimiter = delimiter;
  }

  /** The records that end in this part of the text. */
  push(text) {
    const records = [];
    let from = 0;
    let at = 0;
    const take = (to) => {
      this.#field += text.slice(from, to);
      from = to;
    };
    for (; at < text.length; at++) {
      const char = text[at];
      if (this.#closing) {
        this.#closing = false;
        if (char === '"') {
          from = at; // two quotes are one
          continue;
        }
        this.#quoted = false;
        from = at;
      }
      if (this.#quoted) {
        if (char === '"') {
          take(at);
          this.#closing = true;
          from = at + 1;
        }
      } else if (char === '"' && !this.#started) {
        this.#quoted = this.#started = true;
        from = at + 1;
      } else if (char === this.delimiter) {
        take(at);
        this.#end();
        from = at + 1;
      } else if (char === "\n" || char === "\r") {
        take(at);
        from = at + 1;
        // An empty line, or the second half of a line end.
        if (this.#started || this.#field || this.#record.length) {
          this.#end();
          records.push(this.#record);
          this.#record = [];
        }
      } else {
        this.#started = true;
      }
    }
    if (!this.#closing) take(text.length);
    return records;
  }

  /** The last record, where no line end came after it. */
  finish() {
    return this.push("\n");
  }

  #end() {
    this.#record.push(this.#field);
    this.#field = "";
    this.#started = this.#quoted = this.#closing = false;
  }
}

// What follows the file's own columns. Where the file has one of these names itself, a prefix tells them apart.
const ADDED = ["label", "probability", "confidence", "needs_person"];
const SEPARATOR = "|"; // between several labels in a cell

/** What a result says, counted: rows, rows for a person, and both by class. */
export class Summary {
  #reader;
  #decoder = new TextDecoder(); // leaves out a byte order mark
  #width = 0; // columns; 0 until the header is read
  rows = 0;
  person = 0;
  classes = new Map(); // name: {rows, person}; "" where there is none

  /** `labels`: the model's classes, to tell several in a cell apart; null where they are not known. */
  constructor(labels, delimiter) {
    this.labels = labels && new Map(labels.map((label) => [bare(label), label]));
    this.#reader = new CsvReader(delimiter);
  }

  push(bytes) {
    this.#read(this.#decoder.decode(bytes, { stream: true }));
  }

  finish() {
    this.#read(this.#decoder.decode());
    for (const record of this.#reader.finish()) this.#count(record);
  }

  #read(text) {
    for (const record of this.#reader.push(text)) this.#count(record);
  }

  #count(record) {
    if (!this.#width) {
      this.#width = record.length;
      return;
    }
    const [label, , , answer] = record.slice(this.#width - ADDED.length);
    const person = answer === "yes";
    this.rows += 1;
    this.person += person;
    for (const name of this.#names(label)) {
      const found = this.classes.get(name) ?? { rows: 0, person: 0 };
      found.rows += 1;
      found.person += person;
      this.classes.set(name, found);
    }
  }

  /** The labels in a cell; a name may hold the separator, or an apostrophe that keeps it from being a formula. */
  #names(cell) {
    if (!this.labels) return [cell];
    const plain = bare(cell);
    if (this.labels.has(plain)) return [this.labels.get(plain)];
    const names = [];
    let name = null;
    for (const part of plain.split(SEPARATOR)) {
      name = name === null ? part : name + SEPARATOR + part;
      if (!this.labels.has(name)) continue;
      names.push(this.labels.get(name));
      name = null;
    }
    return name === null ? names : [...names, name];
  }
}

/** Text without the apostrophes that the server puts before formulas. */
function bare(text) {
  return text.replace(/'(?=[\s",;|]*[=+\-@＝＋－＠])/g, "");
}
