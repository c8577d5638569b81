// Explains each pick with all that it gets, and returns every kind of result.
// The tenth attempt faults: there are nine codes.
import { type FailCode, type PickInfo, type PickResult, type SubConn } from "../hotpick/index.js";
import { declareAffinity, declareMetadata, drop, explain, fail, inFlight, pick, policy, queue, tried } from "../hotpick/index.js";

const CODES: FailCode[] = [
  "cancelled", "unknown", "deadline-exceeded", "permission-denied", "resource-exhausted", "unimplemented", "internal",
  "unavailable", "unauthenticated",
];

class Reader {
  private first = 0;

  constructor() {
    declareAffinity(declareMetadata("user"));
  }

  endpoints(): void {}

  ready(ids: ArrayLike<SubConn>): void {
    this.first = ids[0] ?? 0;
  }

  pick(info: PickInfo): PickResult {
    if (info.requeued) return queue();
    if (info.waitForReady) return pick(this.first);
    const { call, method, affinity, random, now } = info;
    explain([call, method, affinity ?? "none", random, now, tried(this.first), inFlight(this.first)].join(" "));
    if (info.attempt === 0) return fail("unavailable");
    const code = CODES[info.attempt - 1];
    if (code === undefined) throw new RangeError("no such code");
    return drop(code);
  }
}

export const { lifecycle, endpoints, picker } = policy(Reader);
