// Explains each pick with all that it gets, and returns every kind of result.
// The tenth attempt faults: there are nine codes.
import * as hotpick from "../hotpick";
export * from "../hotpick/exports";

const CODES: hotpick.Code[] = [
  hotpick.Code.Cancelled, hotpick.Code.Unknown, hotpick.Code.DeadlineExceeded, hotpick.Code.PermissionDenied,
  hotpick.Code.ResourceExhausted, hotpick.Code.Unimplemented, hotpick.Code.Internal, hotpick.Code.Unavailable,
  hotpick.Code.Unauthenticated,
];

class Reader extends hotpick.Policy {
  private first: hotpick.SubConn = 0;

  endpoints(added: hotpick.Endpoint[], removed: hotpick.SubConn[], now: hotpick.Nanos): void {}

  ready(ready: hotpick.SubConn[], now: hotpick.Nanos): void {
    if (ready.length > 0) this.first = ready[0];
  }

  pick(info: hotpick.PickInfo): hotpick.Result {
    if (info.requeued) return hotpick.queue();
    if (info.waitForReady) return hotpick.pick(this.first);
    const affinity = info.hasAffinity ? info.affinity.toString() : "none";
    const tried = hotpick.tried(this.first);
    const inFlight = hotpick.inFlight(this.first);
    hotpick.explain(`${info.call} ${info.method} ${affinity} ${info.random} ${info.now} ${tried} ${inFlight}`);
    return info.attempt > 0 ? hotpick.drop(CODES[info.attempt - 1]) : hotpick.fail(hotpick.Code.Unavailable);
  }
}

hotpick.register((config, where) => {
  const user = hotpick.declareMetadata("user");
  return user >= 0 && hotpick.declareAffinity(user) ? new Reader() : null;
});
