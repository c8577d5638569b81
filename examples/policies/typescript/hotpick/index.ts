// What a policy in TypeScript is to the hotpick host: the contract of policy.wit, with its types.
import * as call from "hotpick:policy/call@0.1.0";
import { log } from "hotpick:policy/env@0.1.0";
import { inFlight } from "hotpick:policy/stats@0.1.0";
import * as underWay from "hotpick:script/info@0.1.0";

export { inFlight };
export const { explain, metadata, tried } = call;

/** A connection to an endpoint: a small number, never reused while the channel lives. */
export type SubConn = number;
/** A time of the host's monotonic clock, in nanoseconds. */
export type Nanos = number;

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
  /** Different in each instance; uniform, at least 0 and below 1. */
  seed: number;
  generation: number;
}

/** What is known of the RPC being picked for. Each costs a call to ask for; most policies need none. */
export interface PickInfo {
  /** Unique within the instance. */
  readonly call: number;
  readonly method: number;
  /** XXH64 of the declared key's value, if the RPC has one. */
  readonly affinity: bigint | undefined;
  /** Uniform, as Math.random() is elsewhere. */
  readonly random: number;
  readonly now: Nanos;
  /** 0 at first. */
  readonly attempt: number;
  readonly waitForReady: boolean;
  /** It was queued, and is picked for again. */
  readonly requeued: boolean;
}

const info: PickInfo = {
  get call() { return underWay.call(); },
  get method() { return underWay.method(); },
  get affinity() {
    const halves = underWay.affinity();
    return halves ? (BigInt(halves[1]) << 32n) | BigInt(halves[0]) : undefined;
  },
  get random() { return underWay.random(); },
  get now() { return underWay.now(); },
  get attempt() { return underWay.attempt(); },
  get waitForReady() { return underWay.waitForReady(); },
  get requeued() { return underWay.requeued(); },
};

/** In the order of the contract. */
const FAIL_CODES = [
  "cancelled", "unknown", "deadline-exceeded", "permission-denied", "resource-exhausted", "unimplemented", "internal",
  "unavailable", "unauthenticated",
] as const;
export type FailCode = (typeof FAIL_CODES)[number];

/**
 * The answer to a pick: made by one of the next four functions. A number, which costs less to hand over than an object
 * (script.wit of `hotpick build`).
 */
export type PickResult = number & { readonly kind: "pick result" };
const result = (kind: number, content: number) => (kind * 2 ** 32 + content) as PickResult;

/** Use this subconn. */
export const pick = (id: SubConn): PickResult => id as PickResult;
const QUEUE = result(1, 0);
/** Hold the RPC until something changes. */
export const queue = (): PickResult => QUEUE;
/** Fail the RPC, unless it is wait-for-ready. */
export const fail = (code: FailCode): PickResult => result(2, FAIL_CODES.indexOf(code));
/** End the RPC now. */
export const drop = (code: FailCode): PickResult => result(3, FAIL_CODES.indexOf(code));

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
export const declareMetadata = (key: string): number => allowed(() => call.declareMetadata(key));
/** In the constructor only: picks are told the hash of this declared key's value, as info.affinity. */
export const declareAffinity = (number: number): void => allowed(() => call.declareAffinity(number));

function allowed<T>(declare: () => T): T {
  try {
    return declare();
  } catch (error) {
    refuse(String((error as { payload?: unknown }).payload ?? error));
  }
}

/** What a policy is. Calls never overlap. */
export interface Policy {
  /** The resolver's list has changed. The first call adds everything; one that has changed is added again. */
  endpoints(added: Endpoint[], removed: ArrayLike<SubConn>, now: Nanos): void;
  /** These are ready, in the resolver's order; there may be none. */
  ready(ids: ArrayLike<SubConn>, now: Nanos): void;
  /** Called for each attempt of each RPC. */
  pick(info: PickInfo): PickResult;
}

// What is thrown ends the instance, and the host makes another. Its log says why.
function logged<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof Refused)) log("error", `${error} ${(error as Partial<Error>)?.stack ?? ""}`);
    throw error;
  }
}

/**
 * Makes a class the policy of the component:
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
          // Of 64 bits, of which a number has only the upper ones.
          const seed = (placement.seed / 2 ** 64) % 1;
          instance = logged(() => new Class(config, { ...placement, seed }));
        } catch (error) {
          // The contract's error is a string; anything else is a fault of the policy's.
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
