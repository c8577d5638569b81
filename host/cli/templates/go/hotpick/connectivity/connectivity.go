// Package connectivity is the optional part that reports the states of subconns.
package connectivity

import "example.com/policies/hotpick"

// Part is the argument of hotpick.Register.
var Part = hotpick.Part{Name: "connectivity", IsImplemented: func(p hotpick.Policy) bool { _, ok := p.(Policy); return ok }}

// Policy has the functions of this part.
type Policy interface {
	// Connectivity is called when the state of a subconn changed. `message` is the reason for a transient failure.
	Connectivity(id hotpick.SubConn, state State, message string, now hotpick.Nanos)
}

// State is a state of a subconn, as in gRPC.
type State uint32

// The states.
const (
	Idle State = iota
	Connecting
	Ready
	TransientFailure
	Shutdown
)

//go:wasmexport hotpick:policy/connectivity@0.1.0#changed
func changed(id, state, message, length uint32, now uint64) {
	text := hotpick.String(message, length)
	hotpick.Take()
	hotpick.Current().(Policy).Connectivity(hotpick.SubConn(id), State(state), text, hotpick.Nanos(now))
}
