// Package hotpick has the contract of policy.wit as Go types and functions, for policies in Go.
package hotpick

import "errors"

// SubConn is the number of a subconn, the connection to one endpoint. It is counted from 0, and not reused while an instance may
// remember it.
type SubConn uint32

// Nanos is a time of the host's monotonic clock, in nanoseconds. Its zero is arbitrary.
type Nanos uint64

// Endpoint is one server, as the resolver reported it.
type Endpoint struct {
	ID SubConn
	// Addresses has at least one, the preferred one first.
	Addresses []string
	// Weight is at least 1.
	Weight     uint32
	Attributes map[string]string
}

// Placement is the channel that an instance is started in, and its place there.
type Placement struct {
	Target        string
	Shard, Shards uint32
	// Seed is a random number, different in each instance.
	Seed       uint64
	Generation uint64
}

// PickInfo is the RPC to pick for.
type PickInfo struct {
	// Call is the number of the pick, unique within the instance.
	Call   uint64
	Method uint32
	// Affinity is the XXH64 of the declared key's value. Valid only if HasAffinity is true.
	Affinity    uint64
	HasAffinity bool
	// Random is uniformly distributed.
	Random uint64
	Now    Nanos
	// Attempt is the number of earlier attempts.
	Attempt      uint32
	WaitForReady bool
	// Requeued reports whether the RPC was queued before.
	Requeued bool
}

// Code is a status code that a policy may end an RPC with.
type Code uint8

// The status codes, with gRPC's names.
const (
	Cancelled Code = iota
	Unknown
	DeadlineExceeded
	PermissionDenied
	ResourceExhausted
	Unimplemented
	Internal
	Unavailable
	Unauthenticated
)

// Result is the result of a pick.
type Result struct {
	what  uint8
	value uint32
}

// Pick sends the RPC on this subconn.
func Pick(id SubConn) Result { return Result{0, uint32(id)} }

// Queue queues the RPC. It is picked for again after a change.
func Queue() Result { return Result{what: 1} }

// Fail fails the RPC with this code. A wait-for-ready RPC is queued instead.
func Fail(code Code) Result { return Result{2, uint32(code)} }

// Drop ends the RPC with this code, even if it is wait-for-ready.
func Drop(code Code) Result { return Result{3, uint32(code)} }

// Second is a second in nanoseconds.
const Second Nanos = 1e9

// Policy is a load-balancing policy. Calls never overlap.
type Policy interface {
	// Endpoints is called when the resolver's list changed. The first call adds all endpoints; a changed endpoint is
	// added again.
	Endpoints(added []Endpoint, removed []SubConn, now Nanos)
	// Ready is called when the set of ready subconns changed. The set is in the resolver's order, and may be empty.
	Ready(ready []SubConn, now Nanos)
	// Pick picks a subconn for one attempt of an RPC.
	Pick(info *PickInfo) Result
}

// Init starts the policy of an instance. `config` is JSON, `{}` if there is none. An error refuses the configuration.
type Init func(config string, where Placement) (Policy, error)

// Part is an optional part of the contract. Each is a package below this one: importing it exports the part.
type Part struct {
	// Name is the name of the part's interface.
	Name string
	// IsImplemented reports whether a policy has the part's functions.
	IsImplemented func(Policy) bool
}

// Register sets the policy of the component, and its optional parts. The program calls it in func init:
//
//	hotpick.Register(newMine, outcomes.Part, handover.Part)
func Register(init Init, parts ...Part) { initialize, declared = init, parts }

var (
	initialize Init
	declared   []Part
)

// start is Init, and checks that the policy has the functions of its parts.
func start(config string, where Placement) (Policy, error) {
	if initialize == nil {
		return nil, errors.New("the program does not call hotpick.Register in func init")
	}
	policy, err := initialize(config, where)
	if err != nil {
		return nil, err
	}
	for _, part := range declared {
		if !part.IsImplemented(policy) {
			return nil, errors.New("the policy does not implement " + part.Name + ".Policy")
		}
	}
	return policy, nil
}
