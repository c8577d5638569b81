// color: sends each RPC to the endpoints of its colour, in turn.
//
// The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
// happens to an RPC without a colour, and to one whose colour no ready endpoint has:
//
//   {"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}
import {
  type Endpoint,
  type PickResult,
  type Placement,
  type Policy,
  type SubConn,
  declareMetadata,
  explain,
  fail,
  metadata,
  pick,
  policy,
  queue,
  readConfig,
  refuse,
} from "../hotpick/index.js";

/** Ready subconns that take RPCs in turn. */
class Group {
  #members: PickResult[] = [];
  #next = 0;

  add(id: SubConn): void {
    this.#members.push(pick(id));
  }

  goOnAt(turn: number): void {
    this.#next = this.#members.length > 0 ? turn % this.#members.length : 0;
  }

  pick(): PickResult {
    const picked = this.#members[this.#next];
    if (++this.#next === this.#members.length) this.#next = 0;
    return picked;
  }
}

class Color implements Policy {
  #settings = { metadata: "color", attribute: "color", missing: "any", unmatched: "fail" };
  #key: number;
  #colors = new Map<SubConn, string | undefined>();
  #members: SubConn[] = [];
  /** Picks so far, from a random start. Rebuilt groups go on from here, not from their first member. */
  #turn: number;
  #all = new Group();
  #groups = new Map<string, Group>();

  constructor(config: string, { seed }: Placement) {
    this.#turn = Math.floor(seed * 2 ** 32);
    this.#settings = readConfig(config, this.#settings);
    for (const name of ["missing", "unmatched"] as const) {
      if (!["any", "fail"].includes(this.#settings[name])) refuse(`${name}: must be "any" or "fail"`);
    }
    this.#key = declareMetadata(this.#settings.metadata);
  }

  endpoints(added: Endpoint[], removed: ArrayLike<SubConn>): void {
    for (const id of Array.from(removed)) this.#colors.delete(id);
    for (const { id, attributes } of added) {
      this.#colors.set(id, attributes.find(({ key }) => key === this.#settings.attribute)?.value);
    }
    // A ready endpoint may have a new colour. `ready` is called after this only if the ready set changed.
    this.#regroup();
  }

  ready(ids: ArrayLike<SubConn>): void {
    this.#members = Array.from(ids);
    this.#regroup();
  }

  #regroup(): void {
    this.#all = new Group();
    this.#groups = new Map();
    for (const id of this.#members) {
      this.#all.add(id);
      const color = this.#colors.get(id);
      if (color === undefined) continue;
      const group = this.#groups.get(color) ?? new Group();
      this.#groups.set(color, group);
      group.add(id);
    }
    for (const group of [this.#all, ...this.#groups.values()]) group.goOnAt(this.#turn);
  }

  pick(): PickResult {
    if (this.#members.length === 0) return queue();
    this.#turn++;
    const color = metadata(this.#key) ?? undefined;
    const group = color === undefined ? undefined : this.#groups.get(color);
    if (group) return group.pick();
    if ((color === undefined ? this.#settings.missing : this.#settings.unmatched) === "any") return this.#all.pick();
    explain(color === undefined ? "the RPC asks for no colour" : "no endpoint has the colour that the RPC asks for");
    return fail("unavailable");
  }
}

export const { lifecycle, endpoints, picker } = policy(Color);
