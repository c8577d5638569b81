// round_robin: picks the ready endpoints in turn, from a random start.
package main

import "example.com/policies/hotpick"

type roundRobin struct {
	ready []hotpick.SubConn
	next  uint64
}

func newRoundRobin(config string, where hotpick.Placement) (hotpick.Policy, error) {
	if err := hotpick.ReadConfig(config, nil); err != nil {
		return nil, err
	}
	return &roundRobin{next: where.Seed}, nil
}

// Endpoints does nothing: round robin uses no data of endpoints.
func (r *roundRobin) Endpoints(added []hotpick.Endpoint, removed []hotpick.SubConn, now hotpick.Nanos) {}

func (r *roundRobin) Ready(ready []hotpick.SubConn, now hotpick.Nanos) {
	r.ready = ready
	if len(ready) > 0 {
		r.next %= uint64(len(ready))
	}
}

func (r *roundRobin) Pick(info *hotpick.PickInfo) hotpick.Result {
	if len(r.ready) == 0 {
		return hotpick.Queue()
	}
	picked := r.ready[r.next]
	if r.next++; r.next == uint64(len(r.ready)) {
		r.next = 0
	}
	return hotpick.Pick(picked)
}

func init() { hotpick.Register(newRoundRobin) }

func main() {}
