// node predict.mjs model.onnx < ids.json: probabilities of {"pad_token_id": 0, "ids": [[101, 2054, 102], ...]}.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const { pad_token_id: pad, ids } = JSON.parse(readFileSync(0, "utf8"));
const width = Math.max(...ids.map((row) => row.length));
const shape = [ids.length, width];
const padded = ids.flatMap((row) => [...row, ...Array(width - row.length).fill(pad)]);
const mask = ids.flatMap((row) => [...row.map(() => 1), ...Array(width - row.length).fill(0)]);

const session = await ort.InferenceSession.create(process.argv[2]);
const outputs = await session.run({
  input_ids: new ort.Tensor("int64", BigInt64Array.from(padded, BigInt), shape),
  attention_mask: new ort.Tensor("int64", BigInt64Array.from(mask, BigInt), shape),
});

const { data, dims } = outputs.probabilities; // Float32Array, [texts, labels]
const rows = ids.map((_, row) => Array.from(data.subarray(row * dims[1], (row + 1) * dims[1])));
console.log(JSON.stringify(rows));
