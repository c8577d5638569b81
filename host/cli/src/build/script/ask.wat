;; The world `ask` of script.wit.
(module
  (import "hotpick:script/note@0.1.0" "set"
    (func $set (param i64 i32 i32 i64 i64 i64 i32 i32 i32)))
  (import "hotpick:script/picker@0.1.0" "pick" (func $pick (result f64)))
  ;; At 0 the answer, as the canonical ABI has a pick-result: its case, and 4 bytes later what the case holds.
  (memory (export "memory") 1)

  (func (export "hotpick:policy/picker@0.1.0#pick")
    (param $call i64) (param $method i32) (param $has-affinity i32) (param $affinity i64) (param $random i64)
    (param $now i64) (param $attempt i32) (param $wait-for-ready i32) (param $requeued i32)
    (result i32)
    (local $answer f64)
    (local $bits i64)
    (call $set
      (local.get $call) (local.get $method) (local.get $has-affinity) (local.get $affinity) (local.get $random)
      (local.get $now) (local.get $attempt) (local.get $wait-for-ready) (local.get $requeued))
    (local.set $answer (call $pick))
    ;; What is no number at all, negative or too large comes out as something else; and so does a fraction.
    (local.set $bits (i64.trunc_sat_f64_u (local.get $answer)))
    (if (f64.ne (local.get $answer) (f64.convert_i64_u (local.get $bits))) (then unreachable))
    ;; All 64 bits count: a case that there is not must not become one.
    (if (i64.gt_u (local.get $bits) (i64.const 0x3_ffff_ffff)) (then unreachable))
    (i32.store8 (i32.const 0) (i32.wrap_i64 (i64.shr_u (local.get $bits) (i64.const 32))))
    (i32.store (i32.const 4) (i32.wrap_i64 (local.get $bits)))
    (i32.const 0)))
