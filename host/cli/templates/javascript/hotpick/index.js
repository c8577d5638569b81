// The contract of policy.wit for policies in JavaScript.
//
// A subconn is a number. `now` is a time in nanoseconds. `seed` is uniformly distributed, at least 0 and below 1. An
// endpoint is {id, addresses, weight, attributes: [{key, value}]}.
import * as call from "hotpick:policy/call@0.1.0";
import { log } from "hotpick:policy/env@0.1.0";
import { inFlight } from "hotpick:policy/stats@0.1.0";
import * as current from "hotpick:script/info@0.1.0";

export { inFlight };
export const { explain, metadata, tried } = call;

// The result of a pick is a number: passing an object is more expensive (script.wit of `hotpick build`).
const [QUEUE, FAIL, DROP] = [1, 2, 3].map((kind) => kind * 2 ** 32);
const CODES = [
  "cancelled", "unknown", "deadline-exceeded", "permission-denied", "resource-exhausted", "unimplemented", "internal",
  "unavailable", "unauthenticated",
];

function numberOf(code) {
  const number = CODES.indexOf(code);
  if (number < 0) throw new RangeError(`${code} is not a code that an RPC can fail with`);
  return number;
}

/** Sends the RPC on this subconn. */
export const pick = (id) => id;
/** Queues the RPC. It is picked for again after a change. */
export const queue = () => QUEUE;
/** Fails the RPC with a code such as "deadline-exceeded". A wait-for-ready RPC is queued instead. */
export const fail = (code) => FAIL + numberOf(code);
/** Ends the RPC with this code, even if it is wait-for-ready. */
export const drop = (code) => DROP + numberOf(code);

// The RPC to pick for. Reading a field costs a call; most policies read none.
const info = {
  /** Number of the pick, unique within the instance. */
  get call() { return current.call(); },
  get method() { return current.method(); },
  /** XXH64 of the declared key's value, a BigInt. Undefined if the RPC has none. */
  get affinity() {
    const halves = current.affinity();
    return halves ? (BigInt(halves[1]) << 32n) | BigInt(halves[0]) : undefined;
  },
  /** Uniformly distributed, at least 0 and below 1. */
  get random() { return current.random(); },
  get now() { return current.now(); },
  /** Number of earlier attempts. */
  get attempt() { return current.attempt(); },
  get waitForReady() { return current.waitForReady(); },
  /** Whether the RPC was queued before. */
  get requeued() { return current.requeued(); },
};

/** Refuses the configuration for this reason. In the constructor only. */
export function refuse(why) {
  throw new Refused(why);
}

class Refused extends Error {}

/** Reads a configuration. It may have only settings with a default here, each of the type of its default. */
export function readConfig(config, defaults) {
  let settings;
  try {
    settings = JSON.parse(config);
  } catch (error) {
    refuse(`the configuration is not JSON: ${error.message}`);
  }
  if (settings === null || typeof settings !== "object" || Array.isArray(settings)) {
    refuse("the configuration is not a JSON object");
  }
  for (const [name, value] of Object.entries(settings)) {
    if (!Object.hasOwn(defaults, name)) refuse(`${name}: there is no such setting`);
    if (typeof value !== typeof defaults[name]) refuse(`${name}: must be a ${typeof defaults[name]}`);
  }
  return { ...defaults, ...settings };
}

/** Declares a metadata key that picks will read with metadata(number). In the constructor only. */
export const declareMetadata = (key) => allowed(() => call.declareMetadata(key));
/** Makes info.affinity the hash of this declared key's value. In the constructor only. */
export const declareAffinity = (number) => allowed(() => call.declareAffinity(number));

function allowed(declare) {
  try {
    return declare();
  } catch (error) {
    refuse(error.payload ?? String(error));
  }
}

// Logs exceptions: each ends the instance, and the host starts another one.
function logged(run) {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof Refused)) log("error", `${error} ${error?.stack ?? ""}`);
    throw error;
  }
}

/**
 * Exports a class as the policy of the component:
 *
 *     export const { lifecycle, endpoints, picker } = policy(MyPolicy);
 *
 * The class has `constructor(config, placement)`, `endpoints(added, removed, now)`, `ready(ids, now)` and `pick(info)`.
 */
export function policy(Policy) {
  let instance;
  const pickOne = () => {
    const answer = instance.pick(info);
    if (typeof answer !== "number") throw new TypeError("pick must return pick(id), queue(), fail(code) or drop(code)");
    return answer;
  };
  return {
    lifecycle: {
      init(config, placement) {
        try {
          // The seed has 64 bits; a number keeps only the upper ones.
          const seed = (placement.seed / 2 ** 64) % 1;
          instance = logged(() => new Policy(config, { ...placement, seed }));
        } catch (error) {
          // An error of the contract is a string; anything else is a fault of the policy.
          throw error instanceof Refused ? error.message : error;
        }
      },
    },
    endpoints: {
      changed: (added, removed, now) => logged(() => instance.endpoints(added, removed, now)),
      ready: (ids, now) => logged(() => instance.ready(ids, now)),
    },
    picker: { pick: () => logged(pickOne) },
  };
}
