// Package hotpick is what a policy in Go is to the hotpick host: the contract of policy.wit, as types and functions of
// Go.
package hotpick

// SubConn is a connection to an endpoint: a small number, never reused while the channel lives.
type SubConn uint32

// Nanos is a time of the host's monotonic clock, with an arbitrary zero.
type Nanos uint64

// Endpoint is what the resolver says of an endpoint.
type Endpoint struct {
	ID SubConn
	// Addresses has at least one, the preferred one first.
	Addresses []string
	// Weight is at least 1.
	Weight     uint32
	Attributes map[string]string
}

// Placement says where an instance works.
type Placement struct {
	Target        string
	Shard, Shards uint32
	// Seed is different in each instance.
	Seed       uint64
	Generation uint64
}

// PickInfo is what an ordinary policy needs to know of an RPC.
type PickInfo struct {
	// Call is unique within the instance.
	Call   uint64
	Method uint32
	// Affinity is the XXH64 of the declared key's value, if HasAffinity.
	Affinity    uint64
	HasAffinity bool
	// Random is uniform.
	Random uint64
	Now    Nanos
	// Attempt is 0 at first.
	Attempt      uint32
	WaitForReady bool
	// Requeued says that the RPC was queued, and is picked for again.
	Requeued bool
}

// Code is a status that a policy may end an RPC with.
type Code uint8

// The codes, by gRPC's names.
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

// Result is the answer to a pick.
type Result struct {
	what  uint8
	value uint32
}

// Pick uses this subconn.
func Pick(id SubConn) Result { return Result{0, uint32(id)} }

// Queue holds the RPC until something changes.
func Queue() Result { return Result{what: 1} }

// Fail fails the RPC, unless it is wait-for-ready.
func Fail(code Code) Result { return Result{2, uint32(code)} }

// Drop ends the RPC now.
func Drop(code Code) Result { return Result{3, uint32(code)} }

// Policy picks. Calls never overlap.
type Policy interface {
	// Endpoints is told that the resolver's list has changed. The first call adds everything; one that has changed is
	// added again.
	Endpoints(added []Endpoint, removed []SubConn, now Nanos)
	// Ready is told which subconns are ready, in the resolver's order; there may be none.
	Ready(ready []SubConn, now Nanos)
	// Pick is called for each attempt of each RPC.
	Pick(info *PickInfo) Result
}

// Init makes the policy of an instance; an error refuses its configuration: JSON, `{}` if there is none.
type Init func(config string, where Placement) (Policy, error)

var initialize Init

// Register says what the component is. Called by the program's func init.
func Register(init Init) { initialize = init }
