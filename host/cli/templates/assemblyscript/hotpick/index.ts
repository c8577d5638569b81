// The contract of policy.wit as AssemblyScript types and functions, for policies in AssemblyScript.

/** Number of a subconn, the connection to one endpoint. Small, and not reused while an instance may remember it. */
export type SubConn = u32;
/** A time of the host's monotonic clock, in nanoseconds. Its zero is arbitrary. */
export type Nanos = u64;

/** One server, as the resolver reported it. */
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

/** The channel that an instance is started in, and its place there. */
export class Placement {
  constructor(
    public target: string,
    public shard: u32,
    public shards: u32,
    /** A random number, different in each instance. */
    public seed: u64,
    public generation: u64,
  ) {}
}

/** The RPC to pick for. All picks use the same object. */
export class PickInfo {
  /** Number of the pick, unique within the instance. */
  call: u64;
  method: u32;
  /** XXH64 of the declared key's value. Valid only if hasAffinity is true. */
  affinity: u64;
  hasAffinity: bool;
  /** Uniformly distributed. */
  random: u64;
  now: Nanos;
  /** Number of earlier attempts. */
  attempt: u32;
  waitForReady: bool;
  /** Whether the RPC was queued before. */
  requeued: bool;
}

/** Status codes that a policy may end an RPC with. */
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

/** The result of a pick, returned by the next four functions. A number, so that picks allocate nothing. */
export type Result = u64;

/** Sends the RPC on this subconn. */
export function pick(id: SubConn): Result {
  return id;
}
/** Queues the RPC. It is picked for again after a change. */
export function queue(): Result {
  return 1 << 32;
}
/** Fails the RPC with this code. A wait-for-ready RPC is queued instead. */
export function fail(code: Code): Result {
  return (2 << 32) | (code as u64);
}
/** Ends the RPC with this code, even if it is wait-for-ready. */
export function drop(code: Code): Result {
  return (3 << 32) | (code as u64);
}

export abstract class Policy {
  /** Called when the resolver's list changed. The first call adds all endpoints; a changed endpoint is added again. */
  abstract endpoints(added: Endpoint[], removed: SubConn[], now: Nanos): void;
  /** Called when the set of ready subconns changed. The set is in the resolver's order, and may be empty. */
  abstract ready(ready: SubConn[], now: Nanos): void;
  /** Picks a subconn for one attempt of an RPC. */
  abstract pick(info: PickInfo): Result;
}

/** Starts the policy of an instance. Returns null after `refuse` was called with the reason. */
export type Init = (config: string, where: Placement) => Policy | null;

let initialize: Init | null = null;
let reason = "";

/** Sets the policy of the component. */
export function register(init: Init): void {
  initialize = init;
}

/** Refuses the configuration for this reason. */
export function refuse(why: string): Policy | null {
  reason = why;
  return null;
}

/** Used by exports.ts. */
export function start(config: string, where: Placement): Policy | null {
  return initialize!(config, where);
}
/** Used by exports.ts. */
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

/** Called by the language's runtime when it cannot continue. Writes the reason to the host's log as an error. */
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

/** Used by exports.ts. From now on, what the host returns is stored in the scratch memory, if it fits. */
export function beginPick(): void {
  isInPick = true;
  used = 0;
}
/** Used by exports.ts. */
export function endPick(): void {
  isInPick = false;
}

/** Used by exports.ts. Allocates memory for the host. */
export function give(size: usize): usize {
  if (!isInPick || used + size > SCRATCH) return heap.alloc(size);
  const at = scratch + used;
  used += (size + 7) & ~7;
  return at;
}

/** Decodes a UTF-8 text that the host passed, and frees its memory. */
export function take(at: usize, length: usize): string {
  if (length == 0) return "";
  const text = decode(at, length);
  if (at - scratch >= SCRATCH) heap.free(at);
  return text;
}

/** Decodes ASCII, the usual case, directly into the string; the standard library would copy it twice. */
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

/** Declares a metadata key that picks will read. In init only. Negative after an error, which is passed to `refuse`. */
export function declareMetadata(key: string): i32 {
  const bytes = String.UTF8.encode(key);
  importDeclare(changetype<usize>(bytes), bytes.byteLength, result);
  if (load<u8>(result) == 0) return load<u32>(result, 4);
  refuse(take(load<u32>(result, 4), load<u32>(result, 8)));
  return -1;
}

/** Makes affinity the hash of this declared key's value. In init only. False after an error, passed to `refuse`. */
export function declareAffinity(key: u32): bool {
  importAffinity(key, result);
  if (load<u8>(result) == 0) return true;
  refuse(take(load<u32>(result, 4), load<u32>(result, 8)));
  return false;
}

/** Returns the first value of a declared key, of the RPC being picked for. Null if there is none. */
export function metadata(key: u32): string | null {
  importMetadata(key, result);
  if (load<u8>(result) == 0) return null;
  return take(load<u32>(result, 4), load<u32>(result, 8));
}

/** Result of metadataAmong if the RPC does not have the key. */
export const MISSING = -2;
/** Result of metadataAmong if the value is none of the texts. */
export const OTHER = -1;

/** Returns the index of a declared key's first value among these UTF-8 texts. Creates no string, and so no garbage. */
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

/** Sets the text of the status if this pick fails or drops the RPC. */
export function explain(message: string): void {
  const bytes = String.UTF8.encode(message);
  importExplain(changetype<usize>(bytes), bytes.byteLength);
}

/** Returns whether an earlier attempt of the same RPC used this subconn. */
export function tried(id: SubConn): bool {
  return importTried(id) != 0;
}

/** Returns the number of RPCs in flight; 0 for an unknown subconn. */
export function inFlight(id: SubConn): u32 {
  return importInFlight(id);
}

const MALFORMED = "the configuration is not a JSON object";

/** Reads a configuration into these settings, all of them strings. It may have only settings that are in the map. False
 *  after an error, which is passed to `refuse`. */
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
