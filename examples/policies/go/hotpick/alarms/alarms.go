// Package alarms is the optional part that delivers timers.
package alarms

import "example.com/policies/hotpick"

// Part is the argument of hotpick.Register.
var Part = hotpick.Part{Name: "alarms", IsImplemented: func(p hotpick.Policy) bool { _, ok := p.(Policy); return ok }}

// Policy has the functions of this part.
type Policy interface {
	// Alarm is called when a timer set by hotpick.Schedule has expired.
	Alarm(id uint32, now hotpick.Nanos)
}

//go:wasmexport hotpick:policy/alarms@0.1.0#fired
func fired(id uint32, now uint64) { hotpick.Current().(Policy).Alarm(id, hotpick.Nanos(now)) }
