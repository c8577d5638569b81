// The contract of policy.wit as TypeScript types and functions, for policies in TypeScript.
import * as call from "hotpick:policy/call@0.1.0";
import { log } from "hotpick:policy/env@0.1.0";
import { inFlight } from "hotpick:policy/stats@0.1.0";
import * as current from "hotpick:script/info@0.1.0";

export { inFlight };
export const { explain, metadata, tried } = call;

/** Number of a subconn, the connection to one endpoint. Small, and not reused while an instance may remember it. */
export type SubConn = number;
/** A time of the host's monotonic clock, in nanoseconds. */
export type Nanos = number;

/** One server, as the resolver reported it. */
export interface Endpoint {
  id: SubConn;
  /** At least one, the preferred one first. */
  addresses: string[];
  /** At least 1. */
  weight: number;
  attributes: { key: string; value: string }[];
}

/** The channel that an instance is started in, and its place there. */
export interface Placement {
  target: string;
  shard: number;
  shards: number;
  /** A random number, different in each instance: uniformly distributed, at least 0 and below 1. */
  seed: number;
  generation: number;
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

const info: PickInfo = {
  get call() { return current.call(); },
  get method() { return current.method(); },
  get affinity() {
    const halves = current.affinity();
    return halves ? (BigInt(halves[1]) << 32n) | BigInt(halves[0]) : undefined;
  },
  get random() { return current.random(); },
  get now() { return current.now(); },
  get attempt() { return current.attempt(); },
  get waitForReady() { return current.waitForReady(); },
  get requeued() { return current.requeued(); },
};

/** In the order of the contract. */
const FAIL_CODES = [
  "cancelled", "unknown", "deadline-exceeded", "permission-denied", "resource-exhausted", "unimplemented", "internal",
  "unavailable", "unauthenticated",
] as const;
export type FailCode = (typeof FAIL_CODES)[number];

/**
 * The result of a pick, returned by the next four functions. A number, because passing an object is more expensive
 * (script.wit of `hotpick build`).
 */
export type PickResult = number & { readonly kind: "pick result" };
const result = (kind: number, content: number) => (kind * 2 ** 32 + content) as PickResult;

/** Sends the RPC on this subconn. */
export const pick = (id: SubConn): PickResult => id as PickResult;
const QUEUE = result(1, 0);
/** Queues the RPC. It is picked for again after a change. */
export const queue = (): PickResult => QUEUE;
/** Fails the RPC with this code. A wait-for-ready RPC is queued instead. */
export const fail = (code: FailCode): PickResult => result(2, FAIL_CODES.indexOf(code));
/** Ends the RPC with this code, even if it is wait-for-ready. */
export const drop = (code: FailCode): PickResult => result(3, FAIL_CODES.indexOf(code));

class Refused extends Error {}

/** Refuses the configuration for this reason. In the constructor only. */
export function refuse(why: string): never {
  throw new Refused(why);
}

/** Reads a configuration. It may have only settings with a default here, each of the type of its default. */
export function readConfig<T extends object>(config: string, defaults: T): T {
  let settings: unknown;
  try {
    settings = JSON.parse(config);
  } catch (error) {
    refuse(`the configuration is not JSON: ${error instanceof Error ? error.message : error}`);
  }
  if (settings === null || typeof settings !== "object" || Array.isArray(settings)) {
    refuse("the configuration is not a JSON object");
  }
  for (const [name, value] of Object.entries(settings)) {
    if (!Object.hasOwn(defaults, name)) refuse(`${name}: there is no such setting`);
    const wanted = typeof defaults[name as keyof T];
    if (typeof value !== wanted) refuse(`${name}: must be a ${wanted}`);
  }
  return { ...defaults, ...settings };
}

/** Declares a metadata key that picks will read with metadata(number). In the constructor only. */
export const declareMetadata = (key: string): number => allowed(() => call.declareMetadata(key));
/** Makes info.affinity the hash of this declared key's value. In the constructor only. */
export const declareAffinity = (number: number): void => allowed(() => call.declareAffinity(number));

function allowed<T>(declare: () => T): T {
  try {
    return declare();
  } catch (error) {
    refuse(String((error as { payload?: unknown }).payload ?? error));
  }
}

/** A load-balancing policy. Calls never overlap. */
export interface Policy {
  /** Called when the resolver's list changed. The first call adds all endpoints; a changed endpoint is added again. */
  endpoints(added: Endpoint[], removed: ArrayLike<SubConn>, now: Nanos): void;
  /** Called when the set of ready subconns changed. The set is in the resolver's order, and may be empty. */
  ready(ids: ArrayLike<SubConn>, now: Nanos): void;
  /** Picks a subconn for one attempt of an RPC. */
  pick(info: PickInfo): PickResult;
}

// Logs exceptions: each ends the instance, and the host starts another one.
function logged<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof Refused)) log("error", `${error} ${(error as Partial<Error>)?.stack ?? ""}`);
    throw error;
  }
}

/**
 * Exports a class as the policy of the component:
 *
 *     export const { lifecycle, endpoints, picker } = policy(MyPolicy);
 */
export function policy(Class: new (config: string, placement: Placement) => Policy) {
  let instance: Policy;
  const pickOne = () => instance.pick(info);
  return {
    lifecycle: {
      init(config: string, placement: Placement) {
        try {
          // The seed has 64 bits; a number keeps only the upper ones.
          const seed = (placement.seed / 2 ** 64) % 1;
          instance = logged(() => new Class(config, { ...placement, seed }));
        } catch (error) {
          // An error of the contract is a string; anything else is a fault of the policy.
          throw error instanceof Refused ? error.message : error;
        }
      },
    },
    endpoints: {
      changed: (added: Endpoint[], removed: ArrayLike<SubConn>, now: Nanos) =>
        logged(() => instance.endpoints(added, removed, now)),
      ready: (ids: ArrayLike<SubConn>, now: Nanos) => logged(() => instance.ready(ids, now)),
    },
    picker: { pick: () => logged(pickOne) },
  };
}
