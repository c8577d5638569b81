// The optional part `about`. A policy that registers with a description exports all of it.
import { described, encode } from "./index";

// Kept while the host reads it.
let summary: ArrayBuffer = new ArrayBuffer(0);
let schema: ArrayBuffer = new ArrayBuffer(0);
const result = memory.data(16);

export function about_describe(): usize {
  const description = described();
  summary = encode(description.summary);
  schema = encode(description.configSchema);
  store<u32>(result, changetype<usize>(summary) as u32);
  store<u32>(result, summary.byteLength, 4);
  store<u32>(result, changetype<usize>(schema) as u32, 8);
  store<u32>(result, schema.byteLength, 12);
  return result;
}
