// What a policy in JavaScript is to the hotpick host: the contract of policy.wit, with less ceremony.
//
// A subconn is a number, `now` are nanoseconds, and `seed` is uniform, at least 0 and below 1. An endpoint is
// {id, addresses, weight, attributes: [{key, value}]}.
import * as call from "hotpick:policy/call@0.1.0";
import { log } from "hotpick:policy/env@0.1.0";
import { inFlight } from "hotpick:policy/stats@0.1.0";
import * as underWay from "hotpick:script/info@0.1.0";

export { inFlight };
export const { explain, metadata, tried } = call;

// A pick is answered by a number, which costs less to hand over than an object (script.wit of `hotpick build`).
const [QUEUE, FAIL, DROP] = [1, 2, 3].map((kind) => kind * 2 ** 32);
const CODES = [
  "cancelled", "unknown", "deadline-exceeded", "permission-denied", "resource-exhausted", "unimplemented", "internal",
  "unavailable", "unauthenticated",
];

function numberOf(code) {
  const number = CODES.indexOf(code);
  if (number < 0) throw new RangeError(`${code} is no code that an RPC can fail with`);
  return number;
}

/** The answer to a pick: use this subconn. */
export const pick = (id) => id;
/** Hold the RPC until something changes. */
export const queue = () => QUEUE;
/** Fail the RPC, unless it is wait-for-ready. The code is as in "deadline-exceeded". */
export const fail = (code) => FAIL + numberOf(code);
/** End the RPC now. */
export const drop = (code) => DROP + numberOf(code);

// What is known of the RPC being picked for. Each costs a call to ask for; most policies need none.
const info = {
  /** Unique within the instance. */
  get call() { return underWay.call(); },
  get method() { return underWay.method(); },
  /** XXH64 of the declared key's value, a BigInt; undefined if the RPC has none. */
  get affinity() {
    const halves = underWay.affinity();
    return halves ? (BigInt(halves[1]) << 32n) | BigInt(halves[0]) : undefined;
  },
  /** Uniform, as Math.random() is elsewhere. */
  get random() { return underWay.random(); },
  get now() { return underWay.now(); },
  /** 0 at first. */
  get attempt() { return underWay.attempt(); },
  get waitForReady() { return underWay.waitForReady(); },
  /** It was queued, and is picked for again. */
  get requeued() { return underWay.requeued(); },
};

/** In the constructor only: refuses the configuration. */
export function refuse(why) {
  throw new Refused(why);
}

class Refused extends Error {}

/** Reads a configuration: an object with none but the settings that have a default here, each of its type. */
export function readConfig(config, defaults) {
  let settings;
  try {
    settings = JSON.parse(config);
  } catch (error) {
    refuse(`the configuration is not JSON: ${error.message}`);
  }
  if (settings === null || typeof settings !== "object" || Array.isArray(settings)) {
    refuse("the configuration is no JSON object");
  }
  for (const [name, value] of Object.entries(settings)) {
    if (!Object.hasOwn(defaults, name)) refuse(`${name}: there is no such setting`);
    if (typeof value !== typeof defaults[name]) refuse(`${name}: must be a ${typeof defaults[name]}`);
  }
  return { ...defaults, ...settings };
}

/** In the constructor only: names a metadata key that picks will read, by metadata(number). */
export const declareMetadata = (key) => allowed(() => call.declareMetadata(key));
/** In the constructor only: picks are told the hash of this declared key's value, as info.affinity. */
export const declareAffinity = (number) => allowed(() => call.declareAffinity(number));

function allowed(declare) {
  try {
    return declare();
  } catch (error) {
    refuse(error.payload ?? String(error));
  }
}

// What is thrown ends the instance, and the host makes another. Its log says why.
function logged(run) {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof Refused)) log("error", `${error} ${error?.stack ?? ""}`);
    throw error;
  }
}

/**
 * Makes a class the policy of the component:
 *
 *     export const { lifecycle, endpoints, picker } = policy(MyPolicy);
 *
 * It has `constructor(config, placement)`, `endpoints(added, removed, now)`, `ready(ids, now)` and `pick(info)`.
 */
export function policy(Policy) {
  let instance;
  const pickOne = () => {
    const answer = instance.pick(info);
    if (typeof answer !== "number") throw new TypeError("pick has to return pick(id), queue(), fail(code) or drop(code)");
    return answer;
  };
  return {
    lifecycle: {
      init(config, placement) {
        try {
          // Of 64 bits, of which a number has only the upper ones.
          const seed = (placement.seed / 2 ** 64) % 1;
          instance = logged(() => new Policy(config, { ...placement, seed }));
        } catch (error) {
          // The contract's error is a string; anything else is a fault of the policy's.
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
