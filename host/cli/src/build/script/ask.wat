;; The world `ask` of script.wit.
(module
  (import "hotpick:script/note@0.1.0" "set"
    (func $set (param i64 i32 i32 i64 i64 i64 i32 i32 i32)))
  (import "hotpick:script/picker@0.1.0" "pick" (func $pick (result f64)))
  ;; At 0: the pick-result in the canonical ABI's layout, which is its case, and 4 bytes later the payload of the case.
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
    ;; A NaN, a negative number, a fraction and a number that is too large change in the conversion.
    (local.set $bits (i64.trunc_sat_f64_u (local.get $answer)))
    (if (f64.ne (local.get $answer) (f64.convert_i64_u (local.get $bits))) (then unreachable))
    ;; Checked on all 64 bits: a case that does not exist must not be truncated to one that does.
    (if (i64.gt_u (local.get $bits) (i64.const 0x3_ffff_ffff)) (then unreachable))
    (i32.store8 (i32.const 0) (i32.wrap_i64 (i64.shr_u (local.get $bits) (i64.const 32))))
    (i32.store (i32.const 4) (i32.wrap_i64 (local.get $bits)))
    (i32.const 0)))
