;; A policy that works 799 times and traps at the 800th pick: what a bug in production looks like. The host's
;; trial picks end before.
;;
;; It is written by hand against the contract in wit/policy.wit: the exports are its functions, flattened
;; to numbers as the component model's canonical ABI says.
(module
  (memory (export "memory") 2)
  ;; Where the host puts what it passes in memory: lists and strings. Taken back after each call.
  (global $heap (mut i32) (i32.const 1024))
  ;; The list of ready subconns, copied to 65536, its length, and the next one's place.
  (global $ready (mut i32) (i32.const 0))
  (global $next (mut i32) (i32.const 0))

  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (local.get $at))

  ;; init(config, placement) -> result: at 0 lies an `ok`.
  (func (export "hotpick:policy/lifecycle@0.1.0#init") (param i32 i32 i32 i32 i32 i32 i64 i64) (result i32)
    (i32.const 0))

  (func (export "hotpick:policy/endpoints@0.1.0#changed") (param i32 i32 i32 i32 i64)
    (global.set $heap (i32.const 1024)))

  (func (export "hotpick:policy/endpoints@0.1.0#ready") (param $list i32) (param $length i32) (param i64)
    (memory.copy (i32.const 65536) (local.get $list) (i32.shl (local.get $length) (i32.const 2)))
    (global.set $ready (local.get $length))
    (global.set $next (i32.const 0))
    (global.set $heap (i32.const 1024)))

  ;; pick(info) -> pick-result: the tag at 16, the subconn at 20.
  (func (export "hotpick:policy/picker@0.1.0#pick")
    (param $call i64) (param i32 i32 i64 i64 i64 i32 i32 i32) (result i32)
    (if (i64.eqz (i64.rem_u (local.get $call) (i64.const 800))) (then unreachable))
    ;; With nothing to pick, the RPC waits: `queue` is case 1.
    (if (i32.eqz (global.get $ready))
      (then (i32.store8 (i32.const 16) (i32.const 1)) (return (i32.const 16))))
    (global.set $next (i32.rem_u (i32.add (global.get $next) (i32.const 1)) (global.get $ready)))
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20)
      (i32.load (i32.add (i32.const 65536) (i32.shl (global.get $next) (i32.const 2)))))
    (i32.const 16)))
