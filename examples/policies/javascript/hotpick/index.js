// What a policy in JavaScript is to the hotpick host: the contract of policy.wit, with less ceremony.
//
// A subconn is a number, as are all of its 32-bit integers; those of 64 bits (seed, random, call, now) are BigInts. An
// endpoint is {id, addresses, weight, attributes: [{key, value}]}.
import { declareMetadata as declare, explain, metadata, tried } from "hotpick:policy/call@0.1.0";
import { inFlight } from "hotpick:policy/stats@0.1.0";

export { explain, inFlight, metadata, tried };

/** The answer to a pick: use this subconn. */
export const pick = (id) => ({ tag: "pick", val: id });
const QUEUE = { tag: "queue" };
/** Hold the RPC until something changes. */
export const queue = () => QUEUE;
/** Fail the RPC, unless it is wait-for-ready. The code is as in "deadline-exceeded". */
export const fail = (code) => ({ tag: "fail", val: code });
/** End the RPC now. */
export const drop = (code) => ({ tag: "drop", val: code });

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
export function declareMetadata(key) {
  try {
    return declare(key);
  } catch (error) {
    refuse(error.payload ?? String(error));
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
  return {
    lifecycle: {
      init(config, placement) {
        try {
          instance = new Policy(config, placement);
        } catch (error) {
          // The contract's error is a string; anything else is a fault of the policy's.
          throw error instanceof Refused ? error.message : error;
        }
      },
    },
    endpoints: {
      changed: (added, removed, now) => instance.endpoints(added, removed, now),
      ready: (ids, now) => instance.ready(ids, now),
    },
    picker: { pick: (info) => instance.pick(info) },
  };
}
