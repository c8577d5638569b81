// Glue code between the canonical ABI and index.ts. A policy exports all of it; transform.js renames the functions.
import { Endpoint, PickInfo, Placement, Policy, SubConn, beginPick, encode, endPick, give, refusal, start, take } from "./index";

let policy: Policy | null = null;
let text: ArrayBuffer = new ArrayBuffer(0);

/** Returns the policy of the instance. Used by the optional parts. */
export function current(): Policy {
  return policy!;
}

/** Returns a result<_, string> for the host, with the text passed to `refuse` unless `succeeded`. */
export function resultOf(succeeded: bool): usize {
  store<u8>(result, succeeded ? 0 : 1);
  if (!succeeded) {
    text = encode(refusal());
    store<u32>(result, changetype<usize>(text) as u32, 4);
    store<u32>(result, text.byteLength, 8);
  }
  return result;
}
const info = new PickInfo();
const result = memory.data(16);

/** Allocates memory for the lists and texts that the host passes. */
export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  return size == 0 ? align : give(size);
}

export function lifecycle_init(
  config: usize,
  configLength: usize,
  target: usize,
  targetLength: usize,
  shard: u32,
  shards: u32,
  seed: u64,
  generation: u64,
): usize {
  const where = new Placement(take(target, targetLength), shard, shards, seed, generation);
  policy = start(take(config, configLength), where);
  return resultOf(policy != null);
}

function subconns(at: usize, count: i32): SubConn[] {
  const all = new Array<SubConn>(count);
  for (let i = 0; i < count; i++) all[i] = load<u32>(at + 4 * i);
  if (count > 0) heap.free(at);
  return all;
}

export function endpoints_changed(added: usize, addedCount: i32, removed: usize, removedCount: i32, now: u64): void {
  const all = new Array<Endpoint>();
  for (let i = 0; i < addedCount; i++) {
    const raw = added + 24 * i;
    const addresses = new Array<string>();
    const addressesAt: usize = load<u32>(raw, 4);
    const addressCount: i32 = load<u32>(raw, 8);
    for (let j = 0; j < addressCount; j++) {
      addresses.push(take(load<u32>(addressesAt + 8 * j), load<u32>(addressesAt + 8 * j, 4)));
    }
    if (addressCount > 0) heap.free(addressesAt);
    const attributes = new Map<string, string>();
    const attributesAt: usize = load<u32>(raw, 16);
    const attributeCount: i32 = load<u32>(raw, 20);
    for (let j = 0; j < attributeCount; j++) {
      const its = attributesAt + 16 * j;
      attributes.set(take(load<u32>(its), load<u32>(its, 4)), take(load<u32>(its, 8), load<u32>(its, 12)));
    }
    if (attributeCount > 0) heap.free(attributesAt);
    all.push(new Endpoint(load<u32>(raw), addresses, load<u32>(raw, 12), attributes));
  }
  if (addedCount > 0) heap.free(added);
  policy!.endpoints(all, subconns(removed, removedCount), now);
}

export function endpoints_ready(ready: usize, count: i32, now: u64): void {
  policy!.ready(subconns(ready, count), now);
}

export function picker_pick(
  call: u64,
  method: u32,
  hasAffinity: bool,
  affinity: u64,
  random: u64,
  now: u64,
  attempt: u32,
  waitForReady: bool,
  requeued: bool,
): usize {
  info.call = call;
  info.method = method;
  info.hasAffinity = hasAffinity;
  info.affinity = affinity;
  info.random = random;
  info.now = now;
  info.attempt = attempt;
  info.waitForReady = waitForReady;
  info.requeued = requeued;
  beginPick();
  const picked = policy!.pick(info);
  endPick();
  store<u8>(result, (picked >> 32) as u8);
  store<u32>(result, picked as u32, 4);
  return result;
}
