// color: sends each RPC to the endpoints of its colour, in turn.
//
// The configuration says which metadata key of RPCs is compared with which attribute of endpoints. It also says what
// happens to an RPC without a colour, and to one whose colour no ready endpoint has:
//
//   {"metadata": "color", "attribute": "color", "missing": "any", "unmatched": "fail"}
import * as hotpick from "../hotpick";
export * from "../hotpick/exports";

/** Ready subconns that take RPCs in turn. */
class Group {
  members: hotpick.SubConn[] = [];
  private next: i32 = 0;

  goOnAt(turn: u32): void {
    this.next = this.members.length > 0 ? ((turn % (this.members.length as u32)) as i32) : 0;
  }

  pick(): hotpick.Result {
    const picked = this.members[this.next];
    if (++this.next == this.members.length) this.next = 0;
    return hotpick.pick(picked);
  }
}

class Color extends hotpick.Policy {
  private colors: Map<hotpick.SubConn, string> = new Map();
  private members: hotpick.SubConn[] = [];
  private all: Group = new Group();
  /** The colour of each group, in UTF-8. */
  private names: ArrayBuffer[] = [];
  private groups: Group[] = [];

  constructor(
    private key: u32,
    private attribute: string,
    private missing: string,
    private unmatched: string,
    /** Picks so far, from a random start. Rebuilt groups go on from here, not from their first member. */
    private turn: u32,
  ) {
    super();
  }

  endpoints(added: hotpick.Endpoint[], removed: hotpick.SubConn[], now: hotpick.Nanos): void {
    for (let i = 0; i < removed.length; i++) this.colors.delete(removed[i]);
    for (let i = 0; i < added.length; i++) {
      const endpoint = added[i];
      if (endpoint.attributes.has(this.attribute)) {
        this.colors.set(endpoint.id, endpoint.attributes.get(this.attribute));
      } else {
        this.colors.delete(endpoint.id);
      }
    }
    // A ready endpoint may have a new colour. `ready` is called after this only if the ready set changed.
    this.regroup();
  }

  ready(ready: hotpick.SubConn[], now: hotpick.Nanos): void {
    this.members = ready;
    this.regroup();
  }

  pick(info: hotpick.PickInfo): hotpick.Result {
    if (this.members.length == 0) return hotpick.queue();
    this.turn++;
    const color = hotpick.metadataAmong(this.key, this.names);
    if (color >= 0) return this.groups[color].pick();
    const isMissing = color == hotpick.MISSING;
    if ((isMissing ? this.missing : this.unmatched) == "any") return this.all.pick();
    hotpick.explain(isMissing ? "the RPC asks for no colour" : "no endpoint has the colour that the RPC asks for");
    return hotpick.fail(hotpick.Code.Unavailable);
  }

  private regroup(): void {
    this.all = new Group();
    this.names = [];
    this.groups = [];
    const places = new Map<string, i32>();
    for (let i = 0; i < this.members.length; i++) {
      const id = this.members[i];
      this.all.members.push(id);
      if (!this.colors.has(id)) continue;
      const color = this.colors.get(id);
      if (!places.has(color)) {
        places.set(color, this.groups.length);
        this.names.push(String.UTF8.encode(color));
        this.groups.push(new Group());
      }
      this.groups[places.get(color)].members.push(id);
    }
    this.all.goOnAt(this.turn);
    for (let i = 0; i < this.groups.length; i++) this.groups[i].goOnAt(this.turn);
  }
}

hotpick.register((config, where) => {
  const settings = hotpick.readConfig(config);
  if (settings == null || !settings.only(["metadata", "attribute", "missing", "unmatched"])) return null;
  const metadata = settings.getText("metadata", "color");
  const attribute = settings.getText("attribute", "color");
  const missing = settings.getText("missing", "any");
  const unmatched = settings.getText("unmatched", "fail");
  if (missing != "any" && missing != "fail") settings.wrong("missing", 'must be "any" or "fail"');
  if (unmatched != "any" && unmatched != "fail") settings.wrong("unmatched", 'must be "any" or "fail"');
  if (hotpick.isRefused) return null;
  const key = hotpick.declareMetadata(metadata);
  if (key < 0) return null;
  return new Color(key, attribute, missing, unmatched, where.seed as u32);
});
