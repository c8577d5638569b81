// Explains each pick with all that it gets, and returns every kind of result.
// The tenth attempt faults: there are nine codes.
import { declareAffinity, declareMetadata, drop, explain, fail, inFlight, pick, policy, queue, tried } from "../hotpick/index.js";

const CODES = [
  "cancelled", "unknown", "deadline-exceeded", "permission-denied", "resource-exhausted", "unimplemented", "internal",
  "unavailable", "unauthenticated",
];

class Reader {
  constructor() {
    declareAffinity(declareMetadata("user"));
  }

  endpoints() {}

  ready(ids) {
    this.first = ids[0] ?? 0;
  }

  pick(info) {
    if (info.requeued) return queue();
    if (info.waitForReady) return pick(this.first);
    const { call, method, affinity, random, now } = info;
    explain([call, method, affinity ?? "none", random, now, tried(this.first), inFlight(this.first)].join(" "));
    return info.attempt > 0 ? drop(CODES[info.attempt - 1]) : fail("unavailable");
  }
}

export const { lifecycle, endpoints, picker } = policy(Reader);
