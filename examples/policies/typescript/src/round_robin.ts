// round_robin: picks the ready endpoints in turn, from a random start.
import { type PickResult, type Placement, type Policy, type SubConn, pick, policy, queue, readConfig } from "../hotpick/index.js";

class RoundRobin implements Policy {
  #members: PickResult[] = [];
  #next: number;

  constructor(config: string, { seed }: Placement) {
    readConfig(config, {});
    this.#next = Math.floor(seed * 2 ** 32);
  }

  endpoints(): void {
    // Round robin uses no data of endpoints.
  }

  ready(ids: ArrayLike<SubConn>): void {
    this.#members = Array.from(ids, pick);
    if (this.#members.length > 0) this.#next %= this.#members.length;
  }

  pick(): PickResult {
    if (this.#members.length === 0) return queue();
    const picked = this.#members[this.#next];
    if (++this.#next === this.#members.length) this.#next = 0;
    return picked;
  }
}

export const { lifecycle, endpoints, picker } = policy(RoundRobin);
