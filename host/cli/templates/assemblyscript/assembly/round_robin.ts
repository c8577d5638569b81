// round_robin: picks the ready endpoints in turn, from a random start.
import * as hotpick from "../hotpick";
export * from "../hotpick/exports";

class RoundRobin extends hotpick.Policy {
  private members: hotpick.SubConn[] = [];

  constructor(private next: i32) {
    super();
  }

  endpoints(added: hotpick.Endpoint[], removed: hotpick.SubConn[], now: hotpick.Nanos): void {
    // Round robin uses no data of endpoints.
  }

  ready(ready: hotpick.SubConn[], now: hotpick.Nanos): void {
    this.members = ready;
    if (ready.length > 0) this.next %= ready.length;
  }

  pick(info: hotpick.PickInfo): hotpick.Result {
    if (this.members.length == 0) return hotpick.queue();
    const picked = this.members[this.next];
    if (++this.next == this.members.length) this.next = 0;
    return hotpick.pick(picked);
  }
}

hotpick.register((config, where) => {
  const settings = hotpick.readConfig(config);
  if (settings == null || !settings.only([])) return null;
  return new RoundRobin((where.seed & i32.MAX_VALUE) as i32);
});
