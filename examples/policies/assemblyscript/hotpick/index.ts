// What a policy in AssemblyScript is to the hotpick host: the contract of policy.wit, as its types and functions.

/** A connection to an endpoint: a small number, never reused while the channel lives. */
export type SubConn = u32;
/** A time of the host's monotonic clock, with an arbitrary zero. */
export type Nanos = u64;

/** What the resolver says of an endpoint. */
export class Endpoint {
  constructor(
    public id: SubConn,
    /** At least one, the preferred one first. */
    public addresses: string[],
    /** At least 1. */
    public weight: u32,
    public attributes: Map<string, string>,
  ) {}
}

/** Where an instance works. */
export class Placement {
  constructor(
    public target: string,
    public shard: u32,
    public shards: u32,
    /** Different in each instance. */
    public seed: u64,
    public generation: u64,
  ) {}
}

/** What an ordinary policy needs to know of an RPC. There is one object of it, for all of them. */
export class PickInfo {
  /** Unique within the instance. */
  call: u64;
  method: u32;
  /** XXH64 of the declared key's value, if the RPC has one. */
  affinity: u64;
  hasAffinity: bool;
  /** Uniform. */
  random: u64;
  now: Nanos;
  /** 0 at first. */
  attempt: u32;
  waitForReady: bool;
  /** It was queued, and is picked for again. */
  requeued: bool;
}

/** The codes that a policy may end an RPC with. */
export enum Code {
  Cancelled,
  Unknown,
  DeadlineExceeded,
  PermissionDenied,
  ResourceExhausted,
  Unimplemented,
  Internal,
  Unavailable,
  Unauthenticated,
}

/** The answer to a pick: made by one of the next four functions. A number, so that none has to be allocated. */
export type Result = u64;

/** Use this subconn. */
export function pick(id: SubConn): Result {
  return id;
}
/** Hold the RPC until something changes. */
export function queue(): Result {
  return 1 << 32;
}
/** Fail the RPC, unless it is wait-for-ready. */
export function fail(code: Code): Result {
  return (2 << 32) | (code as u64);
}
/** End the RPC now. */
export function drop(code: Code): Result {
  return (3 << 32) | (code as u64);
}

export abstract class Policy {
  /** The resolver's list has changed. The first call adds everything; one that has changed is added again. */
  abstract endpoints(added: Endpoint[], removed: SubConn[], now: Nanos): void;
  /** These are ready, in the resolver's order; there may be none. */
  abstract ready(ready: SubConn[], now: Nanos): void;
  /** Called for each attempt of each RPC. */
  abstract pick(info: PickInfo): Result;
}

/** Makes the policy of an instance; null if `refuse` has been told why not. */
export type Init = (config: string, where: Placement) => Policy | null;

let initialize: Init | null = null;
let reason = "";

/** Says what the component is. */
export function register(init: Init): void {
  initialize = init;
}

/** Why a configuration is refused. */
export function refuse(why: string): Policy | null {
  reason = why;
  return null;
}

/** For the exports. */
export function start(config: string, where: Placement): Policy | null {
  return initialize!(config, where);
}
/** For the exports. */
export function refusal(): string {
  return reason;
}

// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "declare-metadata")
declare function importDeclare(at: usize, length: usize, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "declare-affinity")
declare function importAffinity(key: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "metadata")
declare function importMetadata(key: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "explain")
declare function importExplain(at: usize, length: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "tried")
declare function importTried(id: SubConn): u32;
// @ts-ignore: decorator
@external("hotpick:policy/stats@0.1.0", "in-flight")
declare function importInFlight(id: SubConn): u32;

// @ts-ignore: decorator
@external("hotpick:policy/env@0.1.0", "log")
declare function importLog(level: u32, at: usize, length: usize): void;

/** Called by the language where it cannot go on: why is an error in the host's log. */
function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const bytes = String.UTF8.encode((message ? message : "aborted") + " at " + (file ? file : "?") + ":" + line.toString());
  importLog(4, changetype<usize>(bytes), bytes.byteLength);
  unreachable();
}

const SCRATCH: usize = 16384;
// @ts-ignore: decorator
@lazy
const scratch = memory.data(16384, 8);
let used: usize = 0;
let isInPick = false;

/** For the exports: what the host answers from now on lies where it answered the pick before, if it fits. */
export function beginPick(): void {
  isInPick = true;
  used = 0;
}
/** For the exports. */
export function endPick(): void {
  isInPick = false;
}

/** For the exports: memory that the host asks for. */
export function give(size: usize): usize {
  if (!isInPick || used + size > SCRATCH) return heap.alloc(size);
  const at = scratch + used;
  used += (size + 7) & ~7;
  return at;
}

/** A UTF-8 text that the host has given, and that is given back. */
export function take(at: usize, length: usize): string {
  if (length == 0) return "";
  const text = decode(at, length);
  if (at - scratch >= SCRATCH) heap.free(at);
  return text;
}

/** What is ASCII, as most is, is put where it belongs at once; the standard library makes a copy of its copy. */
function decode(at: usize, length: usize): string {
  const text = changetype<string>(__new(length << 1, idof<string>()));
  for (let i: usize = 0; i < length; i++) {
    const byte = load<u8>(at + i);
    if (byte >= 0x80) return String.UTF8.decodeUnsafe(at, length);
    store<u16>(changetype<usize>(text) + (i << 1), byte);
  }
  return text;
}

// @ts-ignore: decorator
@lazy
const result = memory.data(16);

/** In init only: names a metadata key that picks will read. Negative if `refuse` has been told why not. */
export function declareMetadata(key: string): i32 {
  const bytes = String.UTF8.encode(key);
  importDeclare(changetype<usize>(bytes), bytes.byteLength, result);
  if (load<u8>(result) == 0) return load<u32>(result, 4);
  refuse(take(load<u32>(result, 4), load<u32>(result, 8)));
  return -1;
}

/** In init only: picks are told the hash of this declared key's value, as affinity. False if `refuse` has been told why not. */
export function declareAffinity(key: u32): bool {
  importAffinity(key, result);
  if (load<u8>(result) == 0) return true;
  refuse(take(load<u32>(result, 4), load<u32>(result, 8)));
  return false;
}

/** The first value of a declared key of the RPC that is being picked for; null if it has none. */
export function metadata(key: u32): string | null {
  importMetadata(key, result);
  if (load<u8>(result) == 0) return null;
  return take(load<u32>(result, 4), load<u32>(result, 8));
}

/** What metadataAmong gives if the RPC does not have the key, or has another value than these. */
export const MISSING = -2;
export const OTHER = -1;

/** Which of these texts, in UTF-8, the first value of a declared key is. No string is made, and so no garbage. */
export function metadataAmong(key: u32, texts: ArrayBuffer[]): i32 {
  importMetadata(key, result);
  if (load<u8>(result) == 0) return MISSING;
  const at: usize = load<u32>(result, 4);
  const length: i32 = load<u32>(result, 8);
  let found = OTHER;
  for (let i = 0; i < texts.length; i++) {
    const text = unchecked(texts[i]);
    if (text.byteLength == length && memory.compare(changetype<usize>(text), at, length) == 0) {
      found = i;
      break;
    }
  }
  if (length > 0 && at - scratch >= SCRATCH) heap.free(at);
  return found;
}

/** The text of the status of an RPC that is about to be failed or dropped. */
export function explain(message: string): void {
  const bytes = String.UTF8.encode(message);
  importExplain(changetype<usize>(bytes), bytes.byteLength);
}

/** Whether an earlier attempt of the same RPC used this subconn. */
export function tried(id: SubConn): bool {
  return importTried(id) != 0;
}

/** RPCs under way; 0 of an unknown subconn. */
export function inFlight(id: SubConn): u32 {
  return importInFlight(id);
}

const MALFORMED = "the configuration is no JSON object";

/** Reads a configuration into settings that are strings: it may have none but those that are there. False if `refuse`
 *  has been told why not. */
export function readConfig(config: string, settings: Map<string, string>): bool {
  const from = new Reader(config);
  if (!from.next(0x7b)) return malformed();
  if (!from.next(0x7d)) {
    do {
      const name = from.text();
      if (name == null || !from.next(0x3a)) return malformed();
      if (!settings.has(name)) {
        refuse(name + ": there is no such setting");
        return false;
      }
      const value = from.text();
      if (value == null) {
        refuse(name + ": must be a string");
        return false;
      }
      settings.set(name, value);
    } while (from.next(0x2c));
    if (!from.next(0x7d)) return malformed();
  }
  from.space();
  return from.at == config.length ? true : malformed();
}

function malformed(): bool {
  refuse(MALFORMED);
  return false;
}

class Reader {
  at: i32 = 0;
  constructor(private all: string) {}

  space(): void {
    while (this.at < this.all.length && " \t\r\n".includes(this.all.charAt(this.at))) this.at++;
  }

  next(c: i32): bool {
    this.space();
    if (this.at == this.all.length || this.all.charCodeAt(this.at) != c) return false;
    this.at++;
    return true;
  }

  text(): string | null {
    if (!this.next(0x22)) return null;
    let text = "";
    while (this.at < this.all.length) {
      const c = this.all.charCodeAt(this.at++);
      if (c == 0x22) return text;
      if (c < 0x20) return null;
      if (c != 0x5c) {
        text += String.fromCharCode(c);
        continue;
      }
      const escaped = this.all.charAt(this.at++);
      const known = '"\\/bfnrt'.indexOf(escaped);
      if (escaped != "" && known >= 0) {
        text += '"\\/\b\f\n\r\t'.charAt(known);
      } else if (escaped == "u" && this.at + 4 <= this.all.length) {
        let unit = 0;
        for (let i = 0; i < 4; i++) {
          const digit = "0123456789abcdef".indexOf(this.all.charAt(this.at++).toLowerCase());
          if (digit < 0) return null;
          unit = unit * 16 + digit;
        }
        text += String.fromCharCode(unit);
      } else {
        return null;
      }
    }
    return null;
  }
}
