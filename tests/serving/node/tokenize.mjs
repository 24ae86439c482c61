// node tokenize.mjs tokenizer.json 512 < texts.json: token ids of texts that are cleaned already.
import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";

const maxLength = Number(process.argv[3]);
const tokenizer = new Tokenizer(JSON.parse(readFileSync(process.argv[2], "utf8")), {});
const rows = JSON.parse(readFileSync(0, "utf8")).map((text) => {
  const { ids } = tokenizer.encode(text);
  // The tokens after max_length go, the one that closes every text stays.
  return ids.length > maxLength ? [...ids.slice(0, maxLength - 1), ids.at(-1)] : ids;
});
console.log(JSON.stringify(rows));
