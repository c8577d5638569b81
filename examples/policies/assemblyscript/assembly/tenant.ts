// tenant: sends each tenant to its pool of endpoints, pauses endpoints that fail, and picks the least loaded.
//
//     {"metadata": "tenant", "attribute": "pool", "routes": [{"prefix": "gold-", "pool": "fast"}],
//      "failures": 3, "pauseSeconds": 10, "strict": false}
//
// An RPC whose metadata begins with a route's prefix goes to the ready endpoints whose attribute is the route's pool;
// the first such route counts. Other RPCs go to all. If a pool is empty, its RPCs go to all as well, or fail if
// `strict`. An endpoint that has failed `failures` RPCs in a row is paused for `pauseSeconds`. A retry goes to an
// endpoint that the RPC has not tried. The next version of the policy takes over the pauses.
import * as hotpick from "../hotpick";
export * from "../hotpick/exports";
export * from "../hotpick/outcomes";
export * from "../hotpick/alarms";
export * from "../hotpick/handover";

/** The only timer. */
const END_OF_PAUSE = 1;
/** Format of the state: a line for each paused endpoint, its number and the end of its pause. */
const FORMAT = 1;

class Route {
  constructor(
    public prefix: string,
    public pool: string,
  ) {}
}

class Settings {
  metadata: string = "";
  attribute: string = "";
  routes: Route[] = [];
  failures: i64 = 0;
  pause: hotpick.Nanos = 0;
  strict: bool = false;
  key: u32 = 0;
  pauses: u32 = 0;
  paused: u32 = 0;
}

class Endpoint {
  pool: string = "";
  /** In a row. */
  failures: i64 = 0;
  /** End of the pause. 0 if it is not paused. */
  until: hotpick.Nanos = 0;
}

class Tenant extends hotpick.Policy {
  private known: Map<hotpick.SubConn, Endpoint> = new Map();
  private ids: hotpick.SubConn[] = [];
  /** The endpoints of `ids`. */
  private members: Endpoint[] = [];
  private candidates: hotpick.SubConn[] = [];

  constructor(
    private settings: Settings,
    private turn: u32,
  ) {
    super();
  }

  endpoints(added: hotpick.Endpoint[], removed: hotpick.SubConn[], now: hotpick.Nanos): void {
    for (let i = 0; i < removed.length; i++) this.known.delete(removed[i]);
    for (let i = 0; i < added.length; i++) {
      const attributes = added[i].attributes;
      const name = this.settings.attribute;
      this.endpoint(added[i].id).pool = attributes.has(name) ? attributes.get(name) : "";
    }
    this.findMembers();
    this.checkPauses(now);
  }

  ready(ready: hotpick.SubConn[], now: hotpick.Nanos): void {
    this.ids = ready;
    this.findMembers();
  }

  pick(info: hotpick.PickInfo): hotpick.Result {
    if (this.ids.length == 0) return hotpick.queue();
    let pool = this.poolOfRpc();
    if (pool != null && !this.collect(pool, true, true)) {
      if (this.settings.strict) {
        hotpick.explain("no endpoint is in the pool of this tenant");
        return hotpick.fail(hotpick.Code.Unavailable);
      }
      pool = null;
    }
    let found = info.attempt > 0 && this.collect(pool, false, false);
    if (!found) found = this.collect(pool, false, true);
    if (!found) found = this.collect(pool, true, true);
    // Begins at another one in each pick, because the least loaded may be several.
    const first = found ? (this.turn++ % (this.candidates.length as u32)) as i32 : 0;
    const count = this.candidates.length;
    for (let i = 0; i < first; i++) this.candidates.push(this.candidates[i]);
    const least = hotpick.leastOf(this.candidates, first, count, hotpick.Measure.InFlight);
    return least == hotpick.NONE ? hotpick.queue() : hotpick.pick(least as u32);
  }

  outcomes(batch: hotpick.Outcome[], now: hotpick.Nanos): void {
    let isNew = false;
    for (let i = 0; i < batch.length; i++) {
      const outcome = batch[i];
      if (outcome.clientEnded || !this.known.has(outcome.subconn)) continue;
      const its = this.known.get(outcome.subconn);
      if (its.until != 0) continue; // sent before the pause
      its.failures = isFault(outcome.code) ? its.failures + 1 : 0;
      if (its.failures < this.settings.failures) continue;
      its.failures = 0;
      its.until = now + this.settings.pause;
      hotpick.add(this.settings.pauses, 1);
      isNew = true;
    }
    if (isNew) this.checkPauses(now);
  }

  alarm(id: u32, now: hotpick.Nanos): void {
    this.checkPauses(now);
  }

  save(): hotpick.Saved {
    let state = "";
    const ids = this.known.keys();
    for (let i = 0; i < ids.length; i++) {
      const until = this.known.get(ids[i]).until;
      if (until != 0) state += `${ids[i]} ${until}\n`;
    }
    return hotpick.Saved.of(FORMAT, state);
  }

  restore(parts: hotpick.Saved[]): bool {
    for (let i = 0; i < parts.length; i++) {
      if (parts[i].schema != FORMAT) {
        hotpick.refuse("the state is of another version");
        return false;
      }
      const lines = parts[i].text().split("\n");
      for (let j = 0; j < lines.length; j++) {
        if (lines[j] == "" && j == lines.length - 1) break;
        const fields = lines[j].split(" ");
        if (fields.length != 2 || !isNumber(fields[0], 10) || !isNumber(fields[1], 20)) {
          hotpick.refuse("the state cannot be read");
          return false;
        }
        const its = this.endpoint(U32.parseInt(fields[0]));
        its.until = max(its.until, U64.parseInt(fields[1]));
      }
    }
    return true;
  }

  private endpoint(id: hotpick.SubConn): Endpoint {
    if (!this.known.has(id)) this.known.set(id, new Endpoint());
    return this.known.get(id);
  }

  /** Finds the endpoints that are ready. Called when either changed. */
  private findMembers(): void {
    const members = new Array<Endpoint>(this.ids.length);
    for (let i = 0; i < this.ids.length; i++) {
      members[i] = this.known.has(this.ids[i]) ? this.known.get(this.ids[i]) : new Endpoint();
    }
    this.members = members;
  }

  /** Ends the pauses that are over, and sets the timer for the next one. */
  private checkPauses(now: hotpick.Nanos): void {
    let next: hotpick.Nanos = u64.MAX_VALUE;
    let count = 0;
    const all = this.known.values();
    for (let i = 0; i < all.length; i++) {
      const its = all[i];
      if (its.until <= now) its.until = 0;
      its.until = min(its.until, now + this.settings.pause); // the version before paused for longer
      if (its.until == 0) continue;
      count++;
      next = min(next, its.until);
    }
    hotpick.observe(this.settings.paused, count as f64);
    if (count > 0) hotpick.schedule(END_OF_PAUSE, next - now);
    else hotpick.cancel(END_OF_PAUSE);
  }

  /** Returns the pool of the RPC. Null: all endpoints. */
  private poolOfRpc(): string | null {
    const value = hotpick.metadata(this.settings.key);
    if (value == null) return null;
    const routes = this.settings.routes;
    for (let i = 0; i < routes.length; i++) {
      if (value.startsWith(routes[i].prefix)) return routes[i].pool;
    }
    return null;
  }

  /** Collects the ready endpoints of a pool, or of all, that are suitable. */
  private collect(pool: string | null, withPaused: bool, withTried: bool): bool {
    this.candidates.length = 0;
    for (let i = 0; i < this.ids.length; i++) {
      const its = this.members[i];
      if (pool != null && its.pool != pool) continue;
      const id = this.ids[i];
      if ((!withPaused && its.until != 0) || (!withTried && hotpick.tried(id))) continue;
      this.candidates.push(id);
    }
    return this.candidates.length > 0;
  }
}

/** Returns whether a status says that the server is at fault, rather than the request. */
function isFault(code: hotpick.Status): bool {
  switch (code) {
    case hotpick.Status.Unknown:
    case hotpick.Status.DeadlineExceeded:
    case hotpick.Status.ResourceExhausted:
    case hotpick.Status.Internal:
    case hotpick.Status.Unavailable:
    case hotpick.Status.DataLoss:
      return true;
    default:
      return false;
  }
}

function isNumber(text: string, longest: i32): bool {
  for (let i = 0; i < text.length; i++) {
    if (text.charCodeAt(i) < 0x30 || text.charCodeAt(i) > 0x39) return false;
  }
  return text.length > 0 && text.length <= longest;
}

hotpick.register((config, where) => {
  const all = hotpick.readConfig(config);
  if (all == null || !all.only(["metadata", "attribute", "routes", "failures", "pauseSeconds", "strict"])) return null;
  const settings = new Settings();
  settings.metadata = all.getText("metadata", "tenant");
  settings.attribute = all.getText("attribute", "pool");
  settings.failures = all.getInteger("failures", 3);
  const seconds = all.getNumber("pauseSeconds", 10);
  settings.strict = all.getFlag("strict", false);
  const routes = all.getList("routes");
  for (let i = 0; i < routes.length; i++) {
    if (!routes[i].only(["prefix", "pool"])) return null;
    const route = new Route(routes[i].getText("prefix", ""), routes[i].getText("pool", ""));
    if (route.prefix == "") routes[i].wrong("prefix", "must not be empty");
    if (route.pool == "") routes[i].wrong("pool", "must not be empty");
    settings.routes.push(route);
  }
  if (settings.failures < 1) all.wrong("failures", "must be at least 1");
  if (!(seconds > 0 && seconds <= 3600)) all.wrong("pauseSeconds", "must be above 0 and at most 3600");
  if (hotpick.isRefused) return null;
  settings.pause = (seconds * 1e9) as u64;

  const key = hotpick.declareMetadata(settings.metadata);
  const pauses = key < 0 ? -1 : hotpick.counter("tenant_pauses", "Pauses of endpoints.");
  const paused = pauses < 0 ? -1 : hotpick.gauge("tenant_paused", "Endpoints that are paused.");
  if (paused < 0) return null;
  settings.key = key;
  settings.pauses = pauses;
  settings.paused = paused;
  return new Tenant(settings, where.seed as u32);
});
