// round_robin: picks the ready endpoints in turn, from a random start.
import { pick, policy, queue, readConfig } from "../hotpick/index.js";

class RoundRobin {
  constructor(config, { seed }) {
    readConfig(config, {});
    this.members = [];
    this.next = Math.floor(seed * 2 ** 32);
  }

  endpoints() {
    // Round robin uses no data of endpoints.
  }

  ready(ids) {
    this.members = Array.from(ids, pick);
    if (this.members.length > 0) this.next %= this.members.length;
  }

  pick() {
    if (this.members.length === 0) return queue();
    const picked = this.members[this.next];
    if (++this.next === this.members.length) this.next = 0;
    return picked;
  }
}

export const { lifecycle, endpoints, picker } = policy(RoundRobin);
