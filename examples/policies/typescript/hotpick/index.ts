// What a policy in TypeScript is to the hotpick host: the contract of policy.wit, with its types.
import { declareMetadata as declare, explain, metadata, tried } from "hotpick:policy/call@0.1.0";
import { inFlight } from "hotpick:policy/stats@0.1.0";

export { explain, inFlight, metadata, tried };

/** A connection to an endpoint: a small number, never reused while the channel lives. */
export type SubConn = number;
/** A 64-bit integer; one that is small may come as a number. */
export type U64 = bigint | number;

/** What the resolver says of an endpoint. */
export interface Endpoint {
  id: SubConn;
  /** At least one, the preferred one first. */
  addresses: string[];
  /** At least 1. */
  weight: number;
  attributes: { key: string; value: string }[];
}

/** Where an instance works. */
export interface Placement {
  target: string;
  shard: number;
  shards: number;
  /** Different in each instance. */
  seed: U64;
  generation: U64;
}

/** What an ordinary policy needs to know of an RPC. */
export interface PickInfo {
  /** Unique within the instance. */
  call: U64;
  method: number;
  /** XXH64 of the declared key's value, if the RPC has one. */
  affinity?: U64 | null;
  /** Uniform. */
  random: U64;
  now: U64;
  /** 0 at first. */
  attempt: number;
  waitForReady: boolean;
  /** It was queued, and is picked for again. */
  requeued: boolean;
}

export type FailCode =
  | "cancelled"
  | "unknown"
  | "deadline-exceeded"
  | "permission-denied"
  | "resource-exhausted"
  | "unimplemented"
  | "internal"
  | "unavailable"
  | "unauthenticated";

/** The answer to a pick: made by one of the next four functions. */
export type PickResult =
  | { tag: "pick"; val: SubConn }
  | { tag: "queue" }
  | { tag: "fail"; val: FailCode }
  | { tag: "drop"; val: FailCode };

/** Use this subconn. */
export const pick = (id: SubConn): PickResult => ({ tag: "pick", val: id });
const QUEUE: PickResult = { tag: "queue" };
/** Hold the RPC until something changes. */
export const queue = (): PickResult => QUEUE;
/** Fail the RPC, unless it is wait-for-ready. */
export const fail = (code: FailCode): PickResult => ({ tag: "fail", val: code });
/** End the RPC now. */
export const drop = (code: FailCode): PickResult => ({ tag: "drop", val: code });

class Refused extends Error {}

/** In the constructor only: refuses the configuration. */
export function refuse(why: string): never {
  throw new Refused(why);
}

/** Reads a configuration: an object with none but the settings that have a default here, each of its type. */
export function readConfig<T extends object>(config: string, defaults: T): T {
  let settings: unknown;
  try {
    settings = JSON.parse(config);
  } catch (error) {
    refuse(`the configuration is not JSON: ${error instanceof Error ? error.message : error}`);
  }
  if (settings === null || typeof settings !== "object" || Array.isArray(settings)) {
    refuse("the configuration is no JSON object");
  }
  for (const [name, value] of Object.entries(settings)) {
    if (!Object.hasOwn(defaults, name)) refuse(`${name}: there is no such setting`);
    const wanted = typeof defaults[name as keyof T];
    if (typeof value !== wanted) refuse(`${name}: must be a ${wanted}`);
  }
  return { ...defaults, ...settings };
}

/** In the constructor only: names a metadata key that picks will read, by metadata(number). */
export function declareMetadata(key: string): number {
  try {
    return declare(key);
  } catch (error) {
    refuse(String((error as { payload?: unknown }).payload ?? error));
  }
}

/** What a policy is. Calls never overlap. */
export interface Policy {
  /** The resolver's list has changed. The first call adds everything; one that has changed is added again. */
  endpoints(added: Endpoint[], removed: ArrayLike<SubConn>, now: U64): void;
  /** These are ready, in the resolver's order; there may be none. */
  ready(ids: ArrayLike<SubConn>, now: U64): void;
  /** Called for each attempt of each RPC. */
  pick(info: PickInfo): PickResult;
}

/**
 * Makes a class the policy of the component:
 *
 *     export const { lifecycle, endpoints, picker } = policy(MyPolicy);
 */
export function policy(Class: new (config: string, placement: Placement) => Policy) {
  let instance: Policy;
  return {
    lifecycle: {
      init(config: string, placement: Placement) {
        try {
          instance = new Class(config, placement);
        } catch (error) {
          // The contract's error is a string; anything else is a fault of the policy's.
          throw error instanceof Refused ? error.message : error;
        }
      },
    },
    endpoints: {
      changed: (added: Endpoint[], removed: ArrayLike<SubConn>, now: U64) => instance.endpoints(added, removed, now),
      ready: (ids: ArrayLike<SubConn>, now: U64) => instance.ready(ids, now),
    },
    picker: { pick: (info: PickInfo) => instance.pick(info) },
  };
}
