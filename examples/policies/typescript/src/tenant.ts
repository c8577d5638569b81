// tenant: sends each tenant to its pool of endpoints, pauses endpoints that fail, and picks the least loaded.
//
//     {"metadata": "tenant", "attribute": "pool", "routes": [{"prefix": "gold-", "pool": "fast"}],
//      "failures": 3, "pauseSeconds": 10, "strict": false}
//
// An RPC whose metadata begins with a route's prefix goes to the ready endpoints whose attribute is the route's pool;
// the first such route counts. Other RPCs go to all. If a pool is empty, its RPCs go to all as well, or fail if
// `strict`. An endpoint that has failed `failures` RPCs in a row is paused for `pauseSeconds`. A retry goes to an
// endpoint that the RPC has not tried. The next version of the policy takes over the pauses.
import * as hotpick from "../hotpick/index.js";
import type { Endpoint, Nanos, Outcome, PickInfo, PickResult, Placement, Restored, Saved, StatusCode, SubConn } from "../hotpick/index.js";

// The only timer.
const END_OF_PAUSE = 1;
// Format of the state: a line for each paused endpoint, its number and the end of its pause.
const FORMAT = 1;

// Statuses that say that the server is at fault, rather than the request.
const FAULTS: StatusCode[] = ["unknown", "deadline-exceeded", "resource-exhausted", "internal", "unavailable", "data-loss"];

const SETTINGS = {
  metadata: "tenant",
  attribute: "pool",
  routes: hotpick.listOf({ prefix: String, pool: String }),
  failures: hotpick.wholeNumber(3),
  pauseSeconds: 10,
  strict: false,
};

class Tenant implements hotpick.Policy {
  #pools = new Map<SubConn, string | undefined>(); // by endpoint
  #failures = new Map<SubConn, number>(); // in a row, by endpoint that has any
  #until = new Map<SubConn, Nanos>(); // end of the pause, by endpoint that is paused
  #members: SubConn[] = [];
  #turn: number;
  readonly #settings: hotpick.Setting<typeof SETTINGS>;
  readonly #pause: Nanos;
  readonly #key: number;
  readonly #pauses: number;
  readonly #paused: number;

  constructor(config: string, { seed }: Placement) {
    const settings = hotpick.readConfig(config, SETTINGS);
    for (const { prefix, pool } of settings.routes) {
      if (prefix === "") hotpick.refuse("routes.prefix: must not be empty");
      if (pool === "") hotpick.refuse("routes.pool: must not be empty");
    }
    const { failures, pauseSeconds } = settings;
    if (failures < 1) hotpick.refuse("failures: must be at least 1");
    if (!(pauseSeconds > 0 && pauseSeconds <= 3600)) hotpick.refuse("pauseSeconds: must be above 0 and at most 3600");
    this.#settings = settings;
    this.#pause = pauseSeconds * hotpick.SECOND;
    this.#key = hotpick.declareMetadata(settings.metadata);
    this.#pauses = hotpick.counter("tenant_pauses", "Pauses of endpoints.");
    this.#paused = hotpick.gauge("tenant_paused", "Endpoints that are paused.");
    this.#turn = Math.floor(seed * 2 ** 32);
  }

  endpoints(added: readonly Endpoint[], removed: Iterable<SubConn>, now: Nanos): void {
    for (const id of removed) for (const known of [this.#pools, this.#failures, this.#until]) known.delete(id);
    for (const { id, attributes } of added) {
      this.#pools.set(id, attributes.find(({ key }) => key === this.#settings.attribute)?.value);
    }
    this.#checkPauses(now);
  }

  ready(ids: Iterable<SubConn>): void {
    this.#members = Array.from(ids);
  }

  pick(info: PickInfo): PickResult {
    if (this.#members.length === 0) return hotpick.queue();
    let among = this.#members;
    const pool = this.#poolOfRpc();
    if (pool !== undefined) {
      const inPool = among.filter((id) => this.#pools.get(id) === pool);
      if (inPool.length === 0 && this.#settings.strict) {
        hotpick.explain("no endpoint is in the pool of this tenant");
        return hotpick.fail("unavailable");
      }
      among = orAll(inPool, among);
    }
    among = orAll(among.filter((id) => !this.#until.has(id)), among);
    if (info.attempt > 0) among = orAll(among.filter((id) => !hotpick.tried(id)), among);
    // Begins at another one in each pick, because the least loaded may be several.
    const first = ++this.#turn % among.length;
    const least = hotpick.least([...among.slice(first), ...among.slice(0, first)], "in-flight");
    return least === undefined ? hotpick.queue() : hotpick.pick(least);
  }

  // Returns the pool of the RPC. Undefined: all endpoints.
  #poolOfRpc(): string | undefined {
    const value = hotpick.metadata(this.#key);
    if (value === undefined) return undefined;
    return this.#settings.routes.find(({ prefix }) => value.startsWith(prefix))?.pool;
  }

  outcomes(batch: readonly Outcome[], now: Nanos): void {
    let isNew = false;
    for (const { subconn, code, clientEnded } of batch) {
      if (clientEnded || !this.#pools.has(subconn) || this.#until.has(subconn)) continue; // or sent before the pause
      const failures = FAULTS.includes(code) ? (this.#failures.get(subconn) ?? 0) + 1 : 0;
      this.#failures.set(subconn, failures);
      if (failures < this.#settings.failures) continue;
      this.#failures.delete(subconn);
      this.#until.set(subconn, now + this.#pause);
      hotpick.add(this.#pauses, 1);
      isNew = true;
    }
    if (isNew) this.#checkPauses(now);
  }

  alarm(_id: number, now: Nanos): void {
    this.#checkPauses(now);
  }

  // Ends the pauses that are over, and sets the timer for the next one.
  #checkPauses(now: Nanos): void {
    let next = Infinity;
    for (const [id, until] of this.#until) {
      // The version before may have paused for longer.
      const end = Math.min(until, now + this.#pause);
      if (end > now) this.#until.set(id, end);
      else this.#until.delete(id);
      if (end > now) next = Math.min(next, end);
    }
    hotpick.observe(this.#paused, this.#until.size);
    if (this.#until.size > 0) hotpick.schedule(END_OF_PAUSE, next - now);
    else hotpick.cancel(END_OF_PAUSE);
  }

  save(): Saved {
    return { schema: FORMAT, data: Array.from(this.#until, ([id, until]) => `${id} ${until}\n`).join("") };
  }

  restore(parts: readonly Restored[]): void {
    for (const { schema, data } of parts) {
      if (schema !== FORMAT) hotpick.refuse("the state is of another version");
      for (const line of data.split("\n").slice(0, -1)) {
        if (!/^\d{1,10} \d{1,20}$/.test(line)) hotpick.refuse("the state cannot be read");
        const [id, until] = line.split(" ").map(Number) as [SubConn, Nanos];
        this.#until.set(id, Math.max(this.#until.get(id) ?? 0, until));
      }
      if (!/(^|\n)$/.test(data)) hotpick.refuse("the state cannot be read");
    }
  }
}

const orAll = (some: SubConn[], all: SubConn[]): SubConn[] => (some.length > 0 ? some : all);

export const { lifecycle, endpoints, picker, outcomes, alarms, handover } = hotpick.policy(Tenant);
