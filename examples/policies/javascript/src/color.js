// color: sends each RPC to the endpoints of its colour, in turn.
//
// The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
// happens to an RPC without a colour, and to one whose colour no ready endpoint has:
//
//   {"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}
import { declareMetadata, explain, fail, metadata, pick, policy, queue, readConfig, refuse } from "../hotpick/index.js";

// Ready subconns that take RPCs in turn.
class Group {
  members = [];
  #next = 0;

  goOnAt(turn) {
    this.#next = this.members.length > 0 ? turn % this.members.length : 0;
  }

  pick() {
    const picked = this.members[this.#next];
    if (++this.#next === this.members.length) this.#next = 0;
    return picked;
  }
}

class Color {
  constructor(config, { seed }) {
    const defaults = { metadata: "color", attribute: "color", missing: "any", unmatched: "fail" };
    this.settings = readConfig(config, defaults);
    for (const name of ["missing", "unmatched"]) {
      if (!["any", "fail"].includes(this.settings[name])) refuse(`${name}: must be "any" or "fail"`);
    }
    this.key = declareMetadata(this.settings.metadata);
    this.colors = new Map();
    this.members = [];
    // Picks so far, from a random start. Rebuilt groups go on from here, not from their first member.
    this.turn = Math.floor(seed * 2 ** 32);
    this.regroup();
  }

  endpoints(added, removed) {
    for (const id of removed) this.colors.delete(id);
    for (const { id, attributes } of added) {
      this.colors.set(id, attributes.find(({ key }) => key === this.settings.attribute)?.value);
    }
    // A ready endpoint may have a new colour. `ready` is called after this only if the ready set changed.
    this.regroup();
  }

  ready(ids) {
    this.members = Array.from(ids);
    this.regroup();
  }

  regroup() {
    this.all = new Group();
    this.groups = new Map();
    for (const id of this.members) {
      this.all.members.push(pick(id));
      const color = this.colors.get(id);
      if (color === undefined) continue;
      if (!this.groups.has(color)) this.groups.set(color, new Group());
      this.groups.get(color).members.push(pick(id));
    }
    for (const group of [this.all, ...this.groups.values()]) group.goOnAt(this.turn);
  }

  pick() {
    if (this.members.length === 0) return queue();
    this.turn++;
    const color = metadata(this.key);
    const asked = color !== undefined && color !== null;
    const group = this.groups.get(color);
    if (group) return group.pick();
    if ((asked ? this.settings.unmatched : this.settings.missing) === "any") return this.all.pick();
    explain(asked ? "no endpoint has the colour that the RPC asks for" : "the RPC asks for no colour");
    return fail("unavailable");
  }
}

export const { lifecycle, endpoints, picker } = policy(Color);
