// The contract of policy.wit for policies in JavaScript.
//
// Numbers are Numbers, but for `info.affinity`, which has 64 bits and is a BigInt. A subconn is a
// small number, `now` a time in nanoseconds. `seed` is uniformly distributed, at least 0 and below 1. An endpoint is
// {id, addresses, weight, attributes: [{key, value}]}.
import * as call from "hotpick:policy/call@0.1.0";
import * as connections from "hotpick:policy/connections@0.1.0";
import * as env from "hotpick:policy/env@0.1.0";
import * as metrics from "hotpick:policy/metrics@0.1.0";
import * as stats from "hotpick:policy/stats@0.1.0";
import * as timers from "hotpick:policy/timers@0.1.0";
import * as current from "hotpick:script/info@0.1.0";

/** A second in nanoseconds. */
export const SECOND = 1e9;

// Arguments are checked here: one of the wrong type would end the instance without a word.
function whole(name, value, most = Number.MAX_SAFE_INTEGER) {
  if (Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw new TypeError(`${name} must be a whole number from 0 to ${most}, not ${shown(value)}`);
}
// Arguments of 32 bits. The interpreter passes no larger ones.
const small = (name, value) => whole(name, value, 2 ** 31 - 1);
// Numbers of 32 bits that the host passes: the interpreter takes the upper half for negative.
const unsigned = (value) => value >>> 0;
const shown = (value) => `the ${typeof value} ${String(value)}`;
function numbers(name, values, check) {
  if (!Array.isArray(values) && !ArrayBuffer.isView(values)) throw new TypeError(`${name} must be a list, not ${shown(values)}`);
  for (let i = 0; i < values.length; i++) check(name, values[i]);
  return values;
}
function real(name, value) {
  if (typeof value === "number") return value;
  throw new TypeError(`${name} must be a number, not ${shown(value)}`);
}
function text(name, value) {
  if (typeof value === "string") return wellFormed(value);
  throw new TypeError(`${name} must be a string, not ${shown(value)}`);
}
function oneOf(name, value, all) {
  if (all.includes(value)) return value;
  throw new TypeError(`${name} must be one of ${all.join(", ")}, not ${String(value)}`);
}

// Half of a surrogate pair has no UTF-8.
const wellFormed = (value) => value.replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
// UTF-8. The interpreter has no TextEncoder.
const encode = (value) =>
  Uint8Array.from(encodeURIComponent(value).match(/%..|./g) ?? [], (c) => (c.length > 1 ? parseInt(c.slice(1), 16) : c.charCodeAt(0)));
const decode = (bytes) => decodeURIComponent(Array.from(bytes, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join(""));

// An error of the host is an Error with the host's text. In the constructor it refuses the configuration.
function allowed(run) {
  try {
    return run();
  } catch (error) {
    throw error instanceof TypeError ? error : new Refused(error?.payload ?? String(error));
  }
}

// env

const LEVELS = ["trace", "debug", "info", "warn", "error"];

/** Writes a line to the host's log, at a level: "trace", "debug", "info", "warn" or "error". */
export const log = (level, line) => env.log(oneOf("level", level, LEVELS), text("line", line));
/** Returns whether the host uses messages of this level. */
export const levelEnabled = (level) => env.levelEnabled(oneOf("level", level, LEVELS));
/** Returns the name of a method. Empty for 4,096, which stands for many methods. */
export const methodName = (method) => env.methodName(small("method", method));
/** Returns the current time. In a pick, `info.now` is cheaper. */
export const now = () => env.now();
/** Returns a uniformly distributed number, at least 0 and below 1. In a pick, `info.random` is cheaper. */
export const random = () => (env.random() / 2 ** 64) % 1;

// stats: the host's statistics of each subconn.

const MEASURES = ["in-flight", "latency-ewma", "failure-rate-ewma"];

/** Returns the number of RPCs in flight; 0 for an unknown subconn. */
export const inFlight = (id) => unsigned(stats.inFlight(small("id", id)));
/** Returns the subconn with the lowest "in-flight", "latency-ewma" or "failure-rate-ewma", the earlier one if equal.
 *  Undefined if no known one is left. */
export const least = (among, by) => stats.least(numbers("among", among, small), oneOf("by", by, MEASURES)) ?? undefined;
/** Returns {inFlight, maxStreams, picked, succeeded, failed, latencyEwma, readySince}. Undefined for an unknown subconn. */
export const read = (id) => fixed(stats.read(small("id", id)));
/** Returns the counters of a subconn's responses: {inFlight, maxStreams, silence, begun, waited, abandoned, abandonedAfter,
 *  ended, faulty}, see `response-counts` in policy.wit. Undefined for an unknown subconn. */
export const responses = (id) => fixed(stats.responses(small("id", id)));

function fixed(its) {
  if (!its) return undefined;
  return { ...its, inFlight: unsigned(its.inFlight), maxStreams: unsigned(its.maxStreams) };
}

// call: the RPC being picked for.

/** Declares a metadata key that picks will read with metadata(number). In the constructor only. */
export const declareMetadata = (key) => allowed(() => call.declareMetadata(text("key", key)));
/** Makes info.affinity the hash of this declared key's value. In the constructor only. */
export const declareAffinity = (number) => allowed(() => call.declareAffinity(small("number", number)));
/** Makes info.affinity the number of this declared key's value. In the constructor only. */
export const declareAffinityNumber = (number) => allowed(() => call.declareAffinityNumber(small("number", number)));
/** Returns the first value of a declared key. Undefined if the RPC has none. */
export const metadata = (key) => call.metadata(small("key", key)) ?? undefined;
/** Returns all values of a declared key, as Uint8Arrays. */
export const metadataAll = (key) => Array.from(call.metadataAll(small("key", key)), (value) => Uint8Array.from(value));
/** Returns a number that identifies the first value of a declared key. Undefined if the RPC has none. */
export const metadataNumber = (key) => call.metadataNumber(small("key", key)) ?? undefined;
/** Sets metadata of the request, if this pick sends it. `value` is a string or a Uint8Array. */
export const setMetadata = (key, value) =>
  allowed(() => call.setMetadata(text("key", key), value instanceof Uint8Array ? value : encode(text("value", value))));
/** Returns whether an earlier attempt of the same RPC used this subconn. */
export const tried = (id) => call.tried(small("id", id));
/** Returns the time left until the RPC's deadline, in nanoseconds. Undefined if it has none. */
export const timeLeft = () => call.timeLeft() ?? undefined;
/** Sets the text of the status if this pick fails or drops the RPC. */
export const explain = (message) => call.explain(text("message", message));

// metrics: instruments of the policy, `hotpick_policy_NAME`. Made in the constructor only.

/** Makes a counter. Returns its number. */
export const counter = (name, help) => allowed(() => metrics.counter(text("name", name), text("help", help)));
/** Makes a gauge. Returns its number. */
export const gauge = (name, help) => allowed(() => metrics.gauge(text("name", name), text("help", help)));
/** Makes a histogram. `buckets` are the upper bounds: finite, not negative and ascending. Returns its number. */
export const histogram = (name, help, buckets) =>
  allowed(() => metrics.histogram(text("name", name), text("help", help), numbers("buckets", buckets, real)));
/** Adds to a counter. */
export const add = (id, delta) => metrics.add(small("id", id), whole("delta", delta));
/** Sets a gauge, or records a value in a histogram. */
export const observe = (id, value) => metrics.observe(small("id", id), real("value", value));

// timers: delivered to `alarm`.

/** Sets the timer `id`, a number that the policy chooses, to a delay in nanoseconds. Replaces the timer if it is set. */
export const schedule = (id, delay) => allowed(() => timers.schedule(small("id", id), whole("delay", Math.ceil(real("delay", delay)))));
/** Cancels the timer `id`. */
export const cancel = (id) => timers.cancel(small("id", id));

// connections. By default the host connects every subconn and keeps it connected.

/** Makes the host connect a subconn only on request. In the constructor only. */
export const declareLazy = () => connections.declareLazy();
/** Requests that an idle subconn connect. */
export const connect = (id) => connections.connect(small("id", id));
/** Requests that a connecting or ready subconn become idle. */
export const disconnect = (id) => connections.disconnect(small("id", id));
/** Requests a new resolution of the channel's target. */
export const resolveNow = () => connections.resolveNow();

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
export const pick = (id) => small("id", id);
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
  get method() { return unsigned(current.method()); },
  /** XXH64 of the declared key's value, a BigInt. Undefined if the RPC has none. */
  get affinity() {
    const halves = current.affinity();
    return halves ? (BigInt(unsigned(halves[1])) << 32n) | BigInt(unsigned(halves[0])) : undefined;
  },
  /** Uniformly distributed, at least 0 and below 1. */
  get random() { return current.random(); },
  get now() { return current.now(); },
  /** Number of earlier attempts. */
  get attempt() { return unsigned(current.attempt()); },
  get waitForReady() { return current.waitForReady(); },
  /** Whether the RPC was queued before. */
  get requeued() { return current.requeued(); },
};

/** Refuses the configuration, or a saved state, for this reason. In the constructor and `restore` only. */
export function refuse(why) {
  throw new Refused(text("why", why));
}

class Refused extends Error {}

/** A setting that is a list, empty by default, whose items are as this one. */
export const listOf = (item) => new List(item);

class List {
  constructor(item) {
    this.item = item;
  }
}

/** A setting that is a whole number, with this default. Without one it must be there. */
export const wholeNumber = (otherwise) => new Whole(otherwise);

class Whole {
  constructor(otherwise) {
    this.otherwise = otherwise;
  }
}

const NAMES = new Map([[String, "a string"], [Number, "a number"], [Boolean, "true or false"]]);

/**
 * Reads a configuration. It may have only these settings, each of the type of its default:
 *
 *     readConfig(config, { failures: wholeNumber(3), routes: listOf({ prefix: String, pool: String }) })
 *
 * A setting whose default is String, Number or Boolean must be there. An object has settings of its own.
 */
export function readConfig(config, settings) {
  let value;
  // Deeper ones would end the instance.
  if (depth(config) > 64) refuse("the configuration is not JSON of 64 levels at most");
  try {
    value = JSON.parse(config);
  } catch (error) {
    refuse(`the configuration is not JSON: ${error.message}`);
  }
  if (!isObject(value)) refuse("the configuration is not a JSON object");
  return readObject("", value, settings);
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

// Returns how deep brackets are nested, those in strings included.
function depth(text) {
  let [deepest, now] = [0, 0];
  for (const c of text.match(/[[\]{}]/g) ?? []) {
    now += c === "[" || c === "{" ? 1 : -1;
    deepest = Math.max(deepest, now);
  }
  return deepest;
}

function readObject(place, value, settings) {
  for (const name of Object.keys(value)) {
    if (!Object.hasOwn(settings, name)) refuse(`${place}${name}: there is no such setting`);
  }
  const read = ([name, setting]) => [name, readSetting(place + name, Object.hasOwn(value, name) ? value[name] : undefined, setting)];
  return Object.fromEntries(Object.entries(settings).map(read));
}

function readSetting(place, value, setting) {
  if (setting instanceof List) {
    if (value === undefined) return [];
    if (!Array.isArray(value)) refuse(`${place}: must be a list`);
    return value.map((item) => readSetting(place, item, setting.item));
  }
  if (setting instanceof Whole) {
    if (value === undefined) return setting.otherwise ?? refuse(`${place}: is missing`);
    return Number.isSafeInteger(value) ? value : refuse(`${place}: must be a whole number`);
  }
  if (isObject(setting)) {
    if (value !== undefined && !isObject(value)) refuse(`${place}: must be an object`);
    return readObject(`${place}.`, value ?? {}, setting);
  }
  const type = NAMES.has(setting) ? setting : Object(setting).constructor;
  if (value === undefined) return type === setting ? refuse(`${place}: is missing`) : setting;
  // 1e999 is infinite.
  if (typeof value !== typeof type() || (type === Number && !Number.isFinite(value))) refuse(`${place}: must be ${NAMES.get(type)}`);
  if (type === String && wellFormed(value) !== value) refuse(`${place}: must be a string of whole characters`);
  return value;
}

/** Saved state of an instance. */
class Saved {
  constructor(schema, bytes) {
    this.schema = schema;
    this.bytes = bytes;
  }

  /** The state as a text. Refuses it if it is not UTF-8. */
  get data() {
    try {
      return decode(this.bytes);
    } catch {
      return refuse("the state is not UTF-8");
    }
  }
}

/** No plan: the host calls `pick`. */
export const noPlan = () => ({ tag: "none" });
/** The next picks, in order. */
export const sequence = (picks) => (numbers("picks", picks, small).length > 0 ? { tag: "sequence", val: picks } : noPlan());
/** A table: the host takes entry `affinity mod length`. */
export const byAffinity = (picks) => (numbers("picks", picks, small).length > 0 ? { tag: "by-affinity", val: picks } : noPlan());

// Logs exceptions: each ends the instance, and the host starts another one.
function logged(run) {
  try {
    return run();
  } catch (error) {
    env.log("error", wellFormed(`${error} ${error?.stack ?? ""}`));
    throw error;
  }
}

// Runs a function whose errors the contract knows: a refusal is a string there.
function refusing(run) {
  try {
    return run();
  } catch (error) {
    if (error instanceof Refused) throw error.message;
    return logged(() => {
      throw error;
    });
  }
}

// Functions of the optional parts.
const PARTS = {
  outcomes: ["outcomes"],
  plans: ["plan"],
  connectivity: ["connectivity"],
  alarms: ["alarm"],
  handover: ["save", "restore"],
};

/**
 * Exports a class as the policy of the component, with the optional parts that are named:
 *
 *     export const { lifecycle, endpoints, picker, outcomes, handover } = policy(MyPolicy);
 *
 * The class has `constructor(config, placement)`, `endpoints(added, removed, now)`, `ready(ids, now)` and `pick(info)`, and
 * for the optional parts:
 *
 *     outcomes      outcomes(batch, now): of {call, subconn, method, code, notSent, clientEnded, latency, load}; `code` is
 *                   "ok", "unavailable", ...; `load` {application, cpu, memory, rps, eps} or undefined
 *     plans         plan(budget, random, now): noPlan(), sequence(ids) or byAffinity(ids)
 *     connectivity  connectivity(id, state, message, now); `state` is "idle", "ready", ...
 *     alarms        alarm(id, now)
 *     handover      save(): {schema, data}, a number, and a string or a Uint8Array; restore(parts) of {schema, data,
 *                   bytes}, which may call refuse(why)
 *     about         static describe(): {summary, configSchema}
 */
export function policy(Policy) {
  let instance;
  const has = (Class, names) => {
    for (const name of names) if (typeof Class[name] !== "function") throw new TypeError(`the policy has no function ${name}`);
  };
  has(Policy.prototype, ["endpoints", "ready", "pick"]);
  const pickOne = () => {
    const answer = instance.pick(info);
    if (typeof answer !== "number") throw new TypeError("pick must return pick(id), queue(), fail(code) or drop(code)");
    return answer;
  };
  const parts = {
    outcomes: {
      done: (batch, now) =>
        logged(() => instance.outcomes(batch.map((its) => ({ ...its, load: its.load ?? undefined })), now)),
    },
    plans: {
      make: (budget, random, now) =>
        logged(() => {
          const plan = instance.plan(unsigned(budget), (random / 2 ** 64) % 1, now);
          if (typeof plan?.tag !== "string") throw new TypeError("plan must return noPlan(), sequence(ids) or byAffinity(ids)");
          return plan;
        }),
    },
    connectivity: {
      changed: (id, state, message, now) => logged(() => instance.connectivity(id, state, message, now)),
    },
    alarms: { fired: (id, now) => logged(() => instance.alarm(id, now)) },
    handover: {
      save: () =>
        logged(() => {
          const { schema, data } = instance.save();
          return { schema: small("schema", schema), data: data instanceof Uint8Array ? data : encode(text("data", data)) };
        }),
      restore: (saved) =>
        refusing(() => {
          instance.restore(Array.from(saved, (part) => new Saved(unsigned(part.schema), Uint8Array.from(part.data))));
        }),
    },
  };
  return {
    lifecycle: {
      init(config, placement) {
        // The seed has 64 bits; a number keeps only the upper ones.
        const seed = (placement.seed / 2 ** 64) % 1;
        instance = refusing(() => new Policy(config, { ...placement, seed }));
      },
    },
    endpoints: {
      changed: (added, removed, now) => logged(() => instance.endpoints(added, removed, now)),
      ready: (ids, now) => logged(() => instance.ready(ids, now)),
    },
    picker: { pick: () => logged(pickOne) },
    // Read by those that name them, so that a missing function is found when the component is built.
    get outcomes() { return part("outcomes"); },
    get plans() { return part("plans"); },
    get connectivity() { return part("connectivity"); },
    get alarms() { return part("alarms"); },
    get handover() { return part("handover"); },
    get about() {
      has(Policy, ["describe"]);
      return { describe: () => logged(() => Policy.describe()) };
    },
  };
  function part(name) {
    has(Policy.prototype, PARTS[name]);
    return parts[name];
  }
}
