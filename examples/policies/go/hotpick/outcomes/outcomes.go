// Package outcomes is the optional part that reports how RPCs ended.
package outcomes

import (
	"structs"

	"example.com/policies/hotpick"
)

// Part is the argument of hotpick.Register.
var Part = hotpick.Part{Name: "outcomes", IsImplemented: func(p hotpick.Policy) bool { _, ok := p.(Policy); return ok }}

// Policy has the functions of this part.
type Policy interface {
	// Outcomes reports RPCs that have ended. The batch is valid until it returns.
	Outcomes(batch []Outcome, now hotpick.Nanos)
}

// Code is a canonical gRPC status code.
type Code uint8

// The status codes, with gRPC's names.
const (
	OK Code = iota
	Cancelled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
)

// Load is a server's load report (ORCA). A field that the server left out is 0.
type Load struct {
	_ structs.HostLayout
	// Application, CPU and Memory are utilizations.
	Application, CPU, Memory float64
	// RPS and EPS are requests and errors per second.
	RPS, EPS float64
}

// Outcome is how an RPC ended.
type Outcome struct {
	_ structs.HostLayout
	// Call is PickInfo.Call of the pick.
	Call    uint64
	SubConn hotpick.SubConn
	Method  uint32
	Code    Code
	// NotSent reports whether the RPC was not served.
	NotSent bool
	// ClientEnded reports whether the client gave up, which says little about the server.
	ClientEnded bool
	// Latency is the time from the pick to the end.
	Latency hotpick.Nanos
	// HasLoad reports whether Load is there.
	HasLoad bool
	Load    Load
}

//go:wasmexport hotpick:policy/outcomes@0.1.0#done
func done(batch, count uint32, now uint64) {
	all := hotpick.Slice[Outcome](batch, count)
	hotpick.Take()
	hotpick.Current().(Policy).Outcomes(all, hotpick.Nanos(now))
}
