// reader explains each pick with all that it gets, and returns every kind of result.
// The tenth attempt faults: there are nine codes.
package main

import (
	"fmt"

	"example.com/policies/hotpick"
)

var codes = []hotpick.Code{
	hotpick.Cancelled, hotpick.Unknown, hotpick.DeadlineExceeded, hotpick.PermissionDenied, hotpick.ResourceExhausted,
	hotpick.Unimplemented, hotpick.Internal, hotpick.Unavailable, hotpick.Unauthenticated,
}

type reader struct{ first hotpick.SubConn }

func newReader(config string, where hotpick.Placement) (hotpick.Policy, error) {
	user, err := hotpick.DeclareMetadata("user")
	if err != nil {
		return nil, err
	}
	return &reader{}, user.DeclareAffinity()
}

func (r *reader) Endpoints(added []hotpick.Endpoint, removed []hotpick.SubConn, now hotpick.Nanos) {}

func (r *reader) Ready(ready []hotpick.SubConn, now hotpick.Nanos) {
	if len(ready) > 0 {
		r.first = ready[0]
	}
}

func (r *reader) Pick(info *hotpick.PickInfo) hotpick.Result {
	if info.Requeued {
		return hotpick.Queue()
	}
	if info.WaitForReady {
		return hotpick.Pick(r.first)
	}
	affinity := "none"
	if info.HasAffinity {
		affinity = fmt.Sprint(info.Affinity)
	}
	tried, inFlight := hotpick.Tried(r.first), hotpick.InFlight(r.first)
	hotpick.Explain(fmt.Sprintln(info.Call, info.Method, affinity, info.Random, info.Now, tried, inFlight))
	if info.Attempt > 0 {
		return hotpick.Drop(codes[info.Attempt-1])
	}
	return hotpick.Fail(hotpick.Unavailable)
}

func init() { hotpick.Register(newReader) }

func main() {}
