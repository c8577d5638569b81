// The contract of policy.wit as AssemblyScript types and functions, for policies in AssemblyScript.

/** Number of a subconn, the connection to one endpoint. Counted from 0, and not reused while an instance may remember it. */
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

/** The canonical gRPC status codes. */
export enum Status {
  OK,
  Cancelled,
  Unknown,
  InvalidArgument,
  DeadlineExceeded,
  NotFound,
  AlreadyExists,
  PermissionDenied,
  ResourceExhausted,
  FailedPrecondition,
  Aborted,
  OutOfRange,
  Unimplemented,
  Internal,
  Unavailable,
  DataLoss,
  Unauthenticated,
}

/** A server's load report (ORCA). A field that the server left out is 0. */
export class Load {
  constructor(
    public application: f64,
    public cpu: f64,
    public memory: f64,
    /** Requests per second. */
    public rps: f64,
    /** Errors per second. */
    public eps: f64,
  ) {}
}

/** How an RPC ended. */
export class Outcome {
  constructor(
    /** `call` of the pick. */
    public call: u64,
    public subconn: SubConn,
    public method: u32,
    public code: Status,
    /** Whether the RPC was not served. */
    public notSent: bool,
    /** Whether the client gave up, which says little about the server. */
    public clientEnded: bool,
    /** From the pick to the end. */
    public latency: Nanos,
    public load: Load | null,
  ) {}
}

/** States of a subconn. */
export enum State {
  Idle,
  Connecting,
  Ready,
  TransientFailure,
  Shutdown,
}

/** Picks ahead, made by the functions below. */
export class Plan {
  constructor(
    public what: u8,
    public picks: SubConn[],
  ) {}
}

/** No plan: the host calls `pick`. */
export function noPlan(): Plan {
  return new Plan(0, []);
}
/** The next picks, in order. */
export function sequence(picks: SubConn[]): Plan {
  return new Plan(1, picks);
}
/** A table: the host takes entry `affinity mod length`. */
export function byAffinity(picks: SubConn[]): Plan {
  return new Plan(2, picks);
}

/** Saved state of an instance. */
export class Saved {
  constructor(
    /** The policy's own number for the format of `data`. */
    public schema: u32,
    public data: ArrayBuffer,
  ) {}

  /** A state that is a text. */
  static of(schema: u32, text: string): Saved {
    return new Saved(schema, encode(text));
  }

  /** Returns the state as a text. */
  text(): string {
    return String.UTF8.decode(this.data);
  }
}

/** Describes a policy, for tools. */
export class Description {
  constructor(
    /** What the policy does, in a few words. */
    public summary: string,
    /** A JSON Schema of the configuration, or "". */
    public configSchema: string,
  ) {}
}

/**
 * A load-balancing policy. The functions after `pick` belong to the optional parts. A policy that has some of them
 * exports each part by one line, as for `hotpick/exports`:
 *
 *     export * from "../hotpick/outcomes";
 */
export abstract class Policy {
  /** Called when the resolver's list changed. The first call adds all endpoints; a changed endpoint is added again. */
  abstract endpoints(added: Endpoint[], removed: SubConn[], now: Nanos): void;
  /** Called when the set of ready subconns changed. The set is in the resolver's order, and may be empty. */
  abstract ready(ready: SubConn[], now: Nanos): void;
  /** Picks a subconn for one attempt of an RPC. */
  abstract pick(info: PickInfo): Result;

  /** Part `outcomes`: reports RPCs that have ended. */
  outcomes(batch: Outcome[], now: Nanos): void {
    missing("outcomes");
  }
  /** Part `plans`: picks ahead, at most `budget` RPCs. */
  plan(budget: u32, random: u64, now: Nanos): Plan {
    missing("plan");
    return noPlan();
  }
  /** Part `connectivity`: called when the state of a subconn changed. `message` is the reason for a transient failure. */
  connectivity(id: SubConn, state: State, message: string, now: Nanos): void {
    missing("connectivity");
  }
  /** Part `alarms`: called when a timer set by `schedule` has expired. */
  alarm(id: u32, now: Nanos): void {
    missing("alarm");
  }
  /** Part `handover`: returns the state. */
  save(): Saved {
    missing("save");
    return Saved.of(0, "");
  }
  /** Part `handover`: restores the states that instances saved, before the first `endpoints`. False after `refuse`: an
   *  instance without the state is started. */
  restore(parts: Saved[]): bool {
    missing("restore");
    return false;
  }
}

function missing(name: string): void {
  throw new Error("the policy exports a part, but has no function `" + name + "`");
}

/** Starts the policy of an instance. Returns null after `refuse` was called with the reason. */
export type Init = (config: string, where: Placement) => Policy | null;

let initialize: Init | null = null;
let description: Description = new Description("", "");
let reason = "";

/** Sets the policy of the component. `described` is for the part `about`. */
export function register(init: Init, described: Description = new Description("", "")): void {
  initialize = init;
  description = described;
}

/** Used by about.ts. */
export function described(): Description {
  return description;
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
@external("hotpick:policy/env@0.1.0", "method-name")
declare function importMethodName(method: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/env@0.1.0", "now")
declare function importNow(): u64;
// @ts-ignore: decorator
@external("hotpick:policy/env@0.1.0", "random")
declare function importRandom(): u64;
// @ts-ignore: decorator
@external("hotpick:policy/env@0.1.0", "log")
declare function importLog(level: u32, at: usize, length: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/env@0.1.0", "level-enabled")
declare function importLevelEnabled(level: u32): u32;
// @ts-ignore: decorator
@external("hotpick:policy/stats@0.1.0", "in-flight")
declare function importInFlight(id: SubConn): u32;
// @ts-ignore: decorator
@external("hotpick:policy/stats@0.1.0", "least")
declare function importLeast(at: usize, count: usize, by: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/stats@0.1.0", "read")
declare function importStats(id: SubConn, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/stats@0.1.0", "responses")
declare function importResponses(id: SubConn, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "declare-metadata")
declare function importDeclare(at: usize, length: usize, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "declare-affinity")
declare function importAffinity(key: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "declare-affinity-number")
declare function importAffinityNumber(key: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "metadata")
declare function importMetadata(key: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "metadata-all")
declare function importMetadataAll(key: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "metadata-hash")
declare function importHash(key: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "metadata-number")
declare function importNumber(key: u32, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "set-metadata")
declare function importSetMetadata(key: usize, keyLength: usize, value: usize, length: usize, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "tried")
declare function importTried(id: SubConn): u32;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "time-left")
declare function importTimeLeft(result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/call@0.1.0", "explain")
declare function importExplain(at: usize, length: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/metrics@0.1.0", "counter")
declare function importCounter(name: usize, length: usize, help: usize, helpLength: usize, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/metrics@0.1.0", "gauge")
declare function importGauge(name: usize, length: usize, help: usize, helpLength: usize, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/metrics@0.1.0", "histogram")
declare function importHistogram(name: usize, length: usize, help: usize, helpLength: usize, buckets: usize, count: usize, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/metrics@0.1.0", "add")
declare function importAdd(id: u32, delta: u64): void;
// @ts-ignore: decorator
@external("hotpick:policy/metrics@0.1.0", "observe")
declare function importObserve(id: u32, value: f64): void;
// @ts-ignore: decorator
@external("hotpick:policy/timers@0.1.0", "schedule")
declare function importSchedule(id: u32, delay: u64, result: usize): void;
// @ts-ignore: decorator
@external("hotpick:policy/timers@0.1.0", "cancel")
declare function importCancel(id: u32): void;
// @ts-ignore: decorator
@external("hotpick:policy/connections@0.1.0", "declare-lazy")
declare function importLazy(): void;
// @ts-ignore: decorator
@external("hotpick:policy/connections@0.1.0", "connect")
declare function importConnect(id: SubConn): void;
// @ts-ignore: decorator
@external("hotpick:policy/connections@0.1.0", "disconnect")
declare function importDisconnect(id: SubConn): void;
// @ts-ignore: decorator
@external("hotpick:policy/connections@0.1.0", "resolve-now")
declare function importResolveNow(): void;

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
  release(at);
  return text;
}

/** Copies bytes that the host passed, and frees their memory. */
export function takeBytes(at: usize, length: usize): ArrayBuffer {
  const bytes = new ArrayBuffer(length as i32);
  if (length == 0) return bytes;
  memory.copy(changetype<usize>(bytes), at, length);
  release(at);
  return bytes;
}

/** Frees memory that the host passed. */
export function release(at: usize): void {
  if (at - scratch >= SCRATCH) heap.free(at);
}

/** Encodes a text for the host. */
export function encode(text: string): ArrayBuffer {
  return String.UTF8.encode(text, false, String.UTF8.ErrorMode.REPLACE);
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
const result = memory.data(80, 8);

// env

/** Severity of a log message. */
export enum Level {
  Trace,
  Debug,
  Info,
  Warn,
  Error,
}

/** Returns the name of a method. Empty for 4,096, which stands for many methods. */
export function methodName(method: u32): string {
  importMethodName(method, result);
  return take(load<u32>(result), load<u32>(result, 4));
}
/** Returns the current time. In a pick, `info.now` is cheaper. */
export function now(): Nanos {
  return importNow();
}
/** Returns a uniformly distributed number. In a pick, `info.random` is cheaper. */
export function random(): u64 {
  return importRandom();
}
/** Writes a line to the host's log. */
export function log(level: Level, line: string): void {
  const bytes = encode(line);
  importLog(level, changetype<usize>(bytes), bytes.byteLength);
}
/** Returns whether the host uses messages of this level. */
export function levelEnabled(level: Level): bool {
  return importLevelEnabled(level) != 0;
}

// stats: the host's statistics of each subconn.

/** A statistic by which `least` compares subconns. */
export enum Measure {
  InFlight,
  LatencyEwma,
  FailureRateEwma,
}

export class Stats {
  constructor(
    public inFlight: u32,
    /** That the peer allows; the largest u32 if there is no known limit. */
    public maxStreams: u32,
    public picked: u64,
    public succeeded: u64,
    public failed: u64,
    /** 0 before the first RPC has ended. */
    public latencyEwma: Nanos,
    /** 0 if the subconn is not ready. */
    public readySince: Nanos,
  ) {}
}

/** Counters that never decrease, but for the first three fields. See `response-counts` in policy.wit. */
export class ResponseCounts {
  constructor(
    public inFlight: u32,
    public maxStreams: u32,
    public silence: Nanos,
    public begun: u64,
    public waited: Nanos,
    public abandoned: u64,
    public abandonedAfter: Nanos,
    public ended: u64,
    public faulty: u64,
  ) {}
}

/** Returns the number of RPCs in flight; 0 for an unknown subconn. */
export function inFlight(id: SubConn): u32 {
  return importInFlight(id);
}
/** Result of `least` if no known subconn is left. */
export const NONE: i64 = -1;
/** Returns the subconn with the lowest value, the earlier one if equal; NONE if no known one is left. */
export function least(among: SubConn[], by: Measure): i64 {
  return leastOf(among, 0, among.length, by);
}
/** As `least`, among `count` elements of an array from `first` on. */
export function leastOf(among: SubConn[], first: i32, count: i32, by: Measure): i64 {
  importLeast(among.dataStart + 4 * first, count, by, result);
  return load<u8>(result) == 0 ? NONE : load<u32>(result, 4);
}
/** Returns the statistics of a subconn. Null if it is unknown. */
export function stats(id: SubConn): Stats | null {
  importStats(id, result);
  if (load<u8>(result) == 0) return null;
  return new Stats(
    load<u32>(result, 8), load<u32>(result, 12), load<u64>(result, 16), load<u64>(result, 24), load<u64>(result, 32),
    load<u64>(result, 40), load<u64>(result, 48),
  );
}
/** Returns the counters of a subconn's responses. Null if it is unknown. */
export function responseCounts(id: SubConn): ResponseCounts | null {
  importResponses(id, result);
  if (load<u8>(result) == 0) return null;
  return new ResponseCounts(
    load<u32>(result, 8), load<u32>(result, 12), load<u64>(result, 16), load<u64>(result, 24), load<u64>(result, 32),
    load<u64>(result, 40), load<u64>(result, 48), load<u64>(result, 56), load<u64>(result, 64),
  );
}

// call: the RPC being picked for.

/** Returns the number of the last result. Negative after an error, which is passed to `refuse`. */
function number(): i32 {
  return succeeded() ? load<u32>(result, 4) : -1;
}

/** Returns whether the last result has no error. An error is passed to `refuse`. */
function succeeded(): bool {
  if (load<u8>(result) == 0) return true;
  refuse(take(load<u32>(result, 4), load<u32>(result, 8)));
  return false;
}

/** Declares a metadata key that picks will read. In init only. Negative after an error, which is passed to `refuse`. */
export function declareMetadata(key: string): i32 {
  const bytes = encode(key);
  importDeclare(changetype<usize>(bytes), bytes.byteLength, result);
  return number();
}
/** Makes affinity the hash of this declared key's value. In init only. False after an error, passed to `refuse`. */
export function declareAffinity(key: u32): bool {
  importAffinity(key, result);
  return succeeded();
}
/** Makes affinity the number of this declared key's value. In init only. False after an error, passed to `refuse`. */
export function declareAffinityNumber(key: u32): bool {
  importAffinityNumber(key, result);
  return succeeded();
}
/** Returns the first value of a declared key. Null if there is none. */
export function metadata(key: u32): string | null {
  importMetadata(key, result);
  if (load<u8>(result) == 0) return null;
  return take(load<u32>(result, 4), load<u32>(result, 8));
}
/** Returns all values of a declared key. */
export function metadataAll(key: u32): ArrayBuffer[] {
  importMetadataAll(key, result);
  const at: usize = load<u32>(result);
  const count: i32 = load<u32>(result, 4);
  const values = new Array<ArrayBuffer>(count);
  for (let i = 0; i < count; i++) values[i] = takeBytes(load<u32>(at + 8 * i), load<u32>(at + 8 * i, 4));
  if (count > 0) release(at);
  return values;
}
/** Whether the last `metadataHash`, `metadataNumber` or `timeLeft` has a value. They return 0 without one. */
export let isFound: bool = false;

function found(): u64 {
  isFound = load<u8>(result) != 0;
  return isFound ? load<u64>(result, 8) : 0;
}

/** Returns the XXH64 of a declared key's value; see `isFound`. Equal hashes do not mean equal values. */
export function metadataHash(key: u32): u64 {
  importHash(key, result);
  return found();
}
/** Returns a number that identifies the first value of a declared key; 0 if there is none. */
export function metadataNumber(key: u32): u64 {
  importNumber(key, result);
  return found();
}
/** Sets metadata of the request, if this pick sends it. False if it is refused. */
export function setMetadata(key: string, value: string): bool {
  return setMetadataBytes(key, encode(value));
}
/** As `setMetadata`, for the bytes of a `-bin` key. */
export function setMetadataBytes(key: string, value: ArrayBuffer): bool {
  const k = encode(key);
  importSetMetadata(changetype<usize>(k), k.byteLength, changetype<usize>(value), value.byteLength, result);
  return succeeded();
}
/** Returns whether an earlier attempt of the same RPC used this subconn. */
export function tried(id: SubConn): bool {
  return importTried(id) != 0;
}
/** Returns the time left until the RPC's deadline; see `isFound`. */
export function timeLeft(): Nanos {
  importTimeLeft(result);
  return found();
}
/** Sets the text of the status if this pick fails or drops the RPC. */
export function explain(message: string): void {
  const bytes = encode(message);
  importExplain(changetype<usize>(bytes), bytes.byteLength);
}

// metrics: instruments of the policy, `hotpick_policy_NAME`. Made in init only. Negative after an error, passed to `refuse`.

export function counter(name: string, help: string): i32 {
  const n = encode(name);
  const h = encode(help);
  importCounter(changetype<usize>(n), n.byteLength, changetype<usize>(h), h.byteLength, result);
  return number();
}
export function gauge(name: string, help: string): i32 {
  const n = encode(name);
  const h = encode(help);
  importGauge(changetype<usize>(n), n.byteLength, changetype<usize>(h), h.byteLength, result);
  return number();
}
/** `buckets` are the upper bounds: finite, not negative and ascending. */
export function histogram(name: string, help: string, buckets: f64[]): i32 {
  const n = encode(name);
  const h = encode(help);
  importHistogram(
    changetype<usize>(n), n.byteLength, changetype<usize>(h), h.byteLength, buckets.dataStart, buckets.length, result,
  );
  return number();
}
/** Adds to a counter. */
export function add(id: u32, delta: u64): void {
  importAdd(id, delta);
}
/** Sets a gauge, or records a value in a histogram. */
export function observe(id: u32, value: f64): void {
  importObserve(id, value);
}

// timers: delivered to `Policy.alarm`.

/** Sets the timer `id`, a number that the policy chooses. Replaces the timer if it is set already. False if refused. */
export function schedule(id: u32, delay: Nanos): bool {
  importSchedule(id, delay, result);
  return succeeded();
}
export function cancel(id: u32): void {
  importCancel(id);
}

// connections. By default the host connects every subconn and keeps it connected.

/** Makes the host connect a subconn only on request. In init only. */
export function declareLazy(): void {
  importLazy();
}
/** Requests that an idle subconn connect. */
export function connect(id: SubConn): void {
  importConnect(id);
}
/** Requests that a connecting or ready subconn become idle. */
export function disconnect(id: SubConn): void {
  importDisconnect(id);
}
/** Requests a new resolution of the channel's target. */
export function resolveNow(): void {
  importResolveNow();
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
  if (length > 0) release(at);
  return found;
}

/** Kinds of values in a configuration. */
export enum Kind {
  Null,
  Boolean,
  Number,
  Text,
  List,
  Object,
}

/**
 * A value of a configuration. The functions with a name read a setting of an object: they return the default if it is
 * not there, and pass what is wrong with it to `refuse`; then `isRefused` is true.
 */
export class Value {
  flag: bool = false;
  number: f64 = 0;
  text: string = "";
  /** Items of a list, or values of an object. */
  items: Value[] = [];
  names: string[] = [];
  /** Place in the configuration, such as "routes". */
  place: string = "";

  constructor(public kind: Kind) {}

  /** Refuses settings of other names. Returns whether all is well so far. */
  only(names: string[]): bool {
    if (this.kind != Kind.Object) return this.wrong("", "must be an object");
    for (let i = 0; i < this.names.length; i++) {
      if (!names.includes(this.names[i])) return this.wrong(this.names[i], "there is no such setting");
    }
    return !isRefused;
  }

  getText(name: string, otherwise: string): string {
    const value = this.get(name, Kind.Text, "a string");
    return value == null ? otherwise : value.text;
  }
  getNumber(name: string, otherwise: f64): f64 {
    const value = this.get(name, Kind.Number, "a number");
    return value == null ? otherwise : value.number;
  }
  getInteger(name: string, otherwise: i64): i64 {
    const value = this.get(name, Kind.Number, "a whole number");
    if (value == null) return otherwise;
    const number = value.number;
    if (number == Math.trunc(number) && Math.abs(number) <= 9007199254740991) return number as i64;
    this.wrong(name, "must be a whole number");
    return otherwise;
  }
  getFlag(name: string, otherwise: bool): bool {
    const value = this.get(name, Kind.Boolean, "true or false");
    return value == null ? otherwise : value.flag;
  }
  /** Returns the items of a list; none if it is not there. Each has the list's name as its place. */
  getList(name: string): Value[] {
    const value = this.get(name, Kind.List, "a list");
    return value == null ? new Array<Value>() : value.items;
  }
  /** Returns an object; an empty one if it is not there. */
  getObject(name: string): Value {
    const value = this.get(name, Kind.Object, "an object");
    return value == null ? new Value(Kind.Object) : value;
  }

  /** Refuses the configuration because of this setting. Returns false. */
  wrong(name: string, what: string): bool {
    const dot = this.place != "" && name != "" ? "." : "";
    if (!isRefused) refuse(this.place + dot + name + ": " + what);
    isRefused = true;
    return false;
  }

  private get(name: string, kind: Kind, what: string): Value | null {
    const at = this.names.lastIndexOf(name);
    if (at < 0) return null;
    const value = this.items[at];
    if (value.kind != kind) {
      this.wrong(name, "must be " + what);
      return null;
    }
    value.place = this.place != "" ? this.place + "." + name : name;
    for (let i = 0; i < value.items.length; i++) {
      if (kind == Kind.List) value.items[i].place = value.place;
    }
    return value;
  }
}

/** Whether a setting was refused. */
export let isRefused: bool = false;

/** Reads a configuration, which is an object. Null after an error, which is passed to `refuse`. */
export function readConfig(config: string): Value | null {
  const from = new Reader(config);
  const value = from.value(0);
  from.space();
  if (value == null || from.at != config.length) {
    refuse("the configuration is not JSON");
    return null;
  }
  if (value.kind != Kind.Object) {
    refuse("the configuration is not a JSON object");
    return null;
  }
  return value;
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

  private word(word: string): bool {
    if (!this.all.startsWith(word, this.at)) return false;
    this.at += word.length;
    return true;
  }

  /** Reads a value, at most 64 levels deep. */
  value(depth: i32): Value | null {
    this.space();
    if (depth > 64) return null;
    if (this.next(0x7b)) return this.items(new Value(Kind.Object), 0x7d, depth);
    if (this.next(0x5b)) return this.items(new Value(Kind.List), 0x5d, depth);
    if (this.word("null")) return new Value(Kind.Null);
    const flag = new Value(Kind.Boolean);
    flag.flag = this.word("true");
    if (flag.flag || this.word("false")) return flag;
    if (this.all.charCodeAt(this.at) == 0x22) {
      const text = this.text();
      if (text == null) return null;
      const value = new Value(Kind.Text);
      value.text = text;
      return value;
    }
    return this.number();
  }

  private items(value: Value, last: i32, depth: i32): Value | null {
    if (this.next(last)) return value;
    do {
      if (value.kind == Kind.Object) {
        const name = this.text();
        if (name == null || !this.next(0x3a)) return null;
        value.names.push(name);
      }
      const item = this.value(depth + 1);
      if (item == null) return null;
      value.items.push(item);
    } while (this.next(0x2c));
    return this.next(last) ? value : null;
  }

  private digits(): i32 {
    const first = this.at;
    while (this.at < this.all.length && this.all.charCodeAt(this.at) - 0x30 < 10 && this.all.charCodeAt(this.at) >= 0x30) this.at++;
    return this.at - first;
  }

  private number(): Value | null {
    const first = this.at;
    this.word("-");
    const isZero = this.all.charCodeAt(this.at) == 0x30;
    const whole = this.digits();
    if (whole == 0 || (isZero && whole > 1)) return null;
    if (this.word(".") && this.digits() == 0) return null;
    if (this.word("e") || this.word("E")) {
      if (!this.word("-")) this.word("+");
      if (this.digits() == 0) return null;
    }
    const value = new Value(Kind.Number);
    value.number = parseFloat(this.all.substring(first, this.at));
    return isFinite(value.number) ? value : null;
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
