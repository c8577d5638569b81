// The contract of policy.wit as TypeScript types, for index.js.
//
// Numbers are `number`, but for hashes, which have 64 bits: `PickInfo.affinity` is a `bigint`.

/** Number of a subconn, the connection to one endpoint. Counted from 0, and not reused while an instance may remember it. */
export type SubConn = number;
/** A time of the host's monotonic clock, or a duration, in nanoseconds. */
export type Nanos = number;
/** A second in nanoseconds. */
export const SECOND: Nanos;

/** One server, as the resolver reported it. */
export interface Endpoint {
  readonly id: SubConn;
  /** At least one, the preferred one first. */
  readonly addresses: readonly string[];
  /** At least 1. */
  readonly weight: number;
  readonly attributes: readonly { readonly key: string; readonly value: string }[];
}

/** The channel that an instance is started in, and its place there. */
export interface Placement {
  readonly target: string;
  readonly shard: number;
  readonly shards: number;
  /** A random number, different in each instance: uniformly distributed, at least 0 and below 1. */
  readonly seed: number;
  readonly generation: number;
}

/** The RPC to pick for. Reading a field costs a call; most policies read none. */
export interface PickInfo {
  /** Number of the pick, unique within the instance. */
  readonly call: number;
  readonly method: number;
  /** XXH64 of the declared key's value. Undefined if the RPC has none. */
  readonly affinity: bigint | undefined;
  /** Uniformly distributed, at least 0 and below 1. */
  readonly random: number;
  readonly now: Nanos;
  /** Number of earlier attempts. */
  readonly attempt: number;
  readonly waitForReady: boolean;
  /** Whether the RPC was queued before. */
  readonly requeued: boolean;
}

/** A status code that a policy may end an RPC with. */
export type FailCode =
  | "cancelled" | "unknown" | "deadline-exceeded" | "permission-denied" | "resource-exhausted" | "unimplemented"
  | "internal" | "unavailable" | "unauthenticated";

/** A canonical gRPC status code. */
export type StatusCode =
  | "ok" | FailCode | "invalid-argument" | "not-found" | "already-exists" | "failed-precondition" | "aborted"
  | "out-of-range" | "data-loss";

/** The result of a pick, returned by the next four functions. */
export type PickResult = number & { readonly kind: "pick result" };

/** Sends the RPC on this subconn. */
export function pick(id: SubConn): PickResult;
/** Queues the RPC. It is picked for again after a change. */
export function queue(): PickResult;
/** Fails the RPC with this code. A wait-for-ready RPC is queued instead. */
export function fail(code: FailCode): PickResult;
/** Ends the RPC with this code, even if it is wait-for-ready. */
export function drop(code: FailCode): PickResult;

/** A load-balancing policy. Calls never overlap. The functions after `pick` belong to the optional parts. */
export interface Policy {
  /** Called when the resolver's list changed. The first call adds all endpoints; a changed endpoint is added again. */
  endpoints(added: readonly Endpoint[], removed: ArrayLike<SubConn> & Iterable<SubConn>, now: Nanos): void;
  /** Called when the set of ready subconns changed. The set is in the resolver's order, and may be empty. */
  ready(ids: ArrayLike<SubConn> & Iterable<SubConn>, now: Nanos): void;
  /** Picks a subconn for one attempt of an RPC. */
  pick(info: PickInfo): PickResult;
  /** Part `outcomes`: reports RPCs that have ended. */
  outcomes?(batch: readonly Outcome[], now: Nanos): void;
  /** Part `plans`: picks ahead, at most `budget` RPCs. `random` is at least 0 and below 1. */
  plan?(budget: number, random: number, now: Nanos): Plan;
  /** Part `connectivity`: called when the state of a subconn changed. `message` is the reason for a transient failure. */
  connectivity?(id: SubConn, state: ConnectivityState, message: string, now: Nanos): void;
  /** Part `alarms`: called when a timer set by `schedule` has expired. */
  alarm?(id: number, now: Nanos): void;
  /** Part `handover`: returns the state. */
  save?(): Saved;
  /** Part `handover`: restores the states that instances saved, before the first `endpoints`. After `refuse`, an instance
   *  without the state is started. */
  restore?(parts: readonly Restored[]): void;
}

/** How an RPC ended. */
export interface Outcome {
  /** `call` of the pick. */
  readonly call: number;
  readonly subconn: SubConn;
  readonly method: number;
  readonly code: StatusCode;
  /** Whether the RPC was not served. */
  readonly notSent: boolean;
  /** Whether the client gave up, which says little about the server. */
  readonly clientEnded: boolean;
  /** From the pick to the end. */
  readonly latency: Nanos;
  /** The server's load report (ORCA). A field that the server left out is 0. */
  readonly load: { readonly application: number; readonly cpu: number; readonly memory: number; readonly rps: number; readonly eps: number } | undefined;
}

/** Saved state of an instance. */
export interface Saved {
  /** The policy's own number for the format of `data`, below 2^31. */
  readonly schema: number;
  readonly data: string | Uint8Array;
}

/** State to restore. */
export interface Restored {
  readonly schema: number;
  /** The state as a text. Refuses it if it is not UTF-8. */
  readonly data: string;
  readonly bytes: Uint8Array;
}

/** A description of a policy, for tools. */
export interface Description {
  /** What the policy does, in a few words. */
  readonly summary: string;
  /** A JSON Schema of the configuration, or "". */
  readonly configSchema: string;
}

export type ConnectivityState = "idle" | "connecting" | "ready" | "transient-failure" | "shutdown";

/** Picks ahead, made by the next three functions. */
export interface Plan {
  readonly tag: "none" | "sequence" | "by-affinity";
}

/** No plan: the host calls `pick`. */
export function noPlan(): Plan;
/** The next picks, in order. */
export function sequence(picks: ArrayLike<SubConn>): Plan;
/** A table: the host takes entry `affinity mod length`. */
export function byAffinity(picks: ArrayLike<SubConn>): Plan;

/**
 * Exports a class as the policy of the component, with the optional parts that are named. The class has their functions; `about`
 * has `static describe(): Description`.
 *
 *     export const { lifecycle, endpoints, picker, outcomes, handover } = policy(MyPolicy);
 */
export function policy(Class: { new (config: string, placement: Placement): Policy; describe?(): Description }): Exports;

/** The interfaces of the contract, for the host. */
export interface Exports {
  readonly lifecycle: unknown;
  readonly endpoints: unknown;
  readonly picker: unknown;
  readonly outcomes: unknown;
  readonly plans: unknown;
  readonly connectivity: unknown;
  readonly alarms: unknown;
  readonly handover: unknown;
  readonly about: unknown;
}

/** Refuses the configuration, or a saved state, for this reason. In the constructor and `restore` only. */
export function refuse(why: string): never;

/** A setting that is a list, empty by default, whose items are as this one. */
export function listOf<T>(item: T): List<T>;
export interface List<T> {
  readonly item: T;
}

/** A setting that is a whole number, with this default. Without one it must be there. */
export function wholeNumber(otherwise?: number): Whole;
export interface Whole {
  readonly otherwise: number | undefined;
}

/** The value of a setting. */
export type Setting<T> =
  T extends List<infer Item> ? Setting<Item>[]
  : T extends Whole ? number
  : T extends StringConstructor | string ? string
  : T extends NumberConstructor | number ? number
  : T extends BooleanConstructor | boolean ? boolean
  : { [Name in keyof T]: Setting<T[Name]> };

/**
 * Reads a configuration. It may have only these settings, each of the type of its default:
 *
 *     readConfig(config, { failures: wholeNumber(3), routes: listOf({ prefix: String, pool: String }) })
 *
 * A setting whose default is `String`, `Number` or `Boolean` must be there. An object has settings of its own.
 */
export function readConfig<T extends object>(config: string, settings: T): { [Name in keyof T]: Setting<T[Name]> };

// env

export type Level = "trace" | "debug" | "info" | "warn" | "error";
/** Writes a line to the host's log. */
export function log(level: Level, line: string): void;
/** Returns whether the host uses messages of this level. */
export function levelEnabled(level: Level): boolean;
/** Returns the name of a method. Empty for 4,096, which stands for many methods. */
export function methodName(method: number): string;
/** Returns the current time. In a pick, `info.now` is cheaper. */
export function now(): Nanos;
/** Returns a uniformly distributed number, at least 0 and below 1. In a pick, `info.random` is cheaper. */
export function random(): number;

// stats: the host's statistics of each subconn.

/** Returns the number of RPCs in flight; 0 for an unknown subconn. */
export function inFlight(id: SubConn): number;
/** Returns the subconn with the lowest value, the earlier one if equal. Undefined if no known one is left. */
export function least(among: ArrayLike<SubConn>, by: "in-flight" | "latency-ewma" | "failure-rate-ewma"): SubConn | undefined;
/** Returns the statistics of a subconn. Undefined if it is unknown. */
export function read(id: SubConn): Summary | undefined;
/** Returns the counters of a subconn's responses. Undefined if it is unknown. */
export function responses(id: SubConn): ResponseCounts | undefined;

export interface Summary {
  readonly inFlight: number;
  /** That the peer allows; 2^32 - 1 if there is no known limit. */
  readonly maxStreams: number;
  readonly picked: number;
  readonly succeeded: number;
  readonly failed: number;
  /** 0 before the first RPC has ended. */
  readonly latencyEwma: Nanos;
  /** 0 if the subconn is not ready. */
  readonly readySince: Nanos;
}

/** Counters that never decrease, but for the first three. See `response-counts` in policy.wit. */
export interface ResponseCounts {
  readonly inFlight: number;
  readonly maxStreams: number;
  readonly silence: Nanos;
  readonly begun: number;
  readonly waited: Nanos;
  readonly abandoned: number;
  readonly abandonedAfter: Nanos;
  readonly ended: number;
  readonly faulty: number;
}

// call: the RPC being picked for.

/** Declares a metadata key that picks will read with metadata(number). In the constructor only. */
export function declareMetadata(key: string): number;
/** Makes `info.affinity` the hash of this declared key's value. In the constructor only. */
export function declareAffinity(number: number): void;
/** Makes `info.affinity` the number of this declared key's value. In the constructor only. */
export function declareAffinityNumber(number: number): void;
/** Returns the first value of a declared key. Undefined if the RPC has none. */
export function metadata(key: number): string | undefined;
/** Returns all values of a declared key. */
export function metadataAll(key: number): Uint8Array[];
/** Returns a number that identifies the first value of a declared key. Undefined if the RPC has none. */
export function metadataNumber(key: number): number | undefined;
/** Sets metadata of the request, if this pick sends it. */
export function setMetadata(key: string, value: string | Uint8Array): void;
/** Returns whether an earlier attempt of the same RPC used this subconn. */
export function tried(id: SubConn): boolean;
/** Returns the time left until the RPC's deadline. Undefined if it has none. */
export function timeLeft(): Nanos | undefined;
/** Sets the text of the status if this pick fails or drops the RPC. */
export function explain(message: string): void;

// metrics: instruments of the policy, `hotpick_policy_NAME`. Made in the constructor only; the functions return their number.

export function counter(name: string, help: string): number;
export function gauge(name: string, help: string): number;
/** `buckets` are the upper bounds: finite, not negative and ascending. */
export function histogram(name: string, help: string, buckets: readonly number[]): number;
/** Adds to a counter. */
export function add(id: number, delta: number): void;
/** Sets a gauge, or records a value in a histogram. */
export function observe(id: number, value: number): void;

// timers: delivered to `alarm`.

/** Sets the timer `id`, a number below 2^31 that the policy chooses. Fractions of a nanosecond are rounded up. Replaces the timer if it is set already. */
export function schedule(id: number, delay: Nanos): void;
/** Cancels the timer `id`. */
export function cancel(id: number): void;

// connections. By default the host connects every subconn and keeps it connected.

/** Makes the host connect a subconn only on request. In the constructor only. */
export function declareLazy(): void;
/** Requests that an idle subconn connect. */
export function connect(id: SubConn): void;
/** Requests that a connecting or ready subconn become idle. */
export function disconnect(id: SubConn): void;
/** Requests a new resolution of the channel's target. */
export function resolveNow(): void;
