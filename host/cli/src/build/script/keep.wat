;; The world `keep` of script.wit.
(module
  ;; At 0: the affinity as an option of two u32 in the canonical ABI's layout: 1 if there is one, and 4 bytes later its
  ;; two halves.
  (memory (export "memory") 1)
  (global $call (mut i64) (i64.const 0))
  (global $method (mut i32) (i32.const 0))
  (global $random (mut i64) (i64.const 0))
  (global $now (mut i64) (i64.const 0))
  (global $attempt (mut i32) (i32.const 0))
  (global $wait-for-ready (mut i32) (i32.const 0))
  (global $requeued (mut i32) (i32.const 0))

  (func (export "hotpick:script/note@0.1.0#set")
    (param $call i64) (param $method i32) (param $has-affinity i32) (param $affinity i64) (param $random i64)
    (param $now i64) (param $attempt i32) (param $wait-for-ready i32) (param $requeued i32)
    (global.set $call (local.get $call))
    (global.set $method (local.get $method))
    (i32.store8 (i32.const 0) (local.get $has-affinity))
    (i64.store align=4 (i32.const 4) (local.get $affinity))
    (global.set $random (local.get $random))
    (global.set $now (local.get $now))
    (global.set $attempt (local.get $attempt))
    (global.set $wait-for-ready (local.get $wait-for-ready))
    (global.set $requeued (local.get $requeued)))

  (func (export "hotpick:script/info@0.1.0#call") (result i64) (global.get $call))
  (func (export "hotpick:script/info@0.1.0#method") (result i32) (global.get $method))
  (func (export "hotpick:script/info@0.1.0#affinity") (result i32) (i32.const 0))
  (func (export "hotpick:script/info@0.1.0#random") (result f64)
    ;; The 53 bits of an f64's significand, divided by 2^53.
    (f64.mul (f64.convert_i64_u (i64.shr_u (global.get $random) (i64.const 11))) (f64.const 0x1p-53)))
  (func (export "hotpick:script/info@0.1.0#now") (result i64) (global.get $now))
  (func (export "hotpick:script/info@0.1.0#attempt") (result i32) (global.get $attempt))
  (func (export "hotpick:script/info@0.1.0#wait-for-ready") (result i32) (global.get $wait-for-ready))
  (func (export "hotpick:script/info@0.1.0#requeued") (result i32) (global.get $requeued)))
