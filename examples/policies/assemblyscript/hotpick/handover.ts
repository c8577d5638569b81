// The optional part `handover`. A policy with the functions `save` and `restore` exports all of it.
import { current, resultOf } from "./exports";
import { Saved, takeBytes } from "./index";

// Kept while the host reads it.
let data: ArrayBuffer = new ArrayBuffer(0);
const result = memory.data(12);

export function handover_save(): usize {
  const saved = current().save();
  data = saved.data;
  store<u32>(result, saved.schema);
  store<u32>(result, changetype<usize>(data) as u32, 4);
  store<u32>(result, data.byteLength, 8);
  return result;
}

export function handover_restore(at: usize, count: i32): usize {
  const parts = new Array<Saved>(count);
  for (let i = 0; i < count; i++) {
    const raw = at + 12 * i;
    parts[i] = new Saved(load<u32>(raw), takeBytes(load<u32>(raw, 4), load<u32>(raw, 8)));
  }
  if (count > 0) heap.free(at);
  return resultOf(current().restore(parts));
}
