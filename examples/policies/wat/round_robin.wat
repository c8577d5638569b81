;; A round robin by hand: a policy without a language between it and the contract (policy.wit).
;;
;; `hotpick build` turns this core module into a component. The component model's "canonical ABI"
;; defines how the types of the contract are represented as numbers. Comments explain the parts that are used here.
(module
  ;; Strings and lists are passed in memory that both sides can access. The first KiB holds this module's results. After
  ;; it comes the list of ready subconns, which must persist, and then what the host passes during a call.
  (memory (export "memory") 1)

  (data (i32.const 0) "there is nothing to configure: the configuration must be {}") ;; 59 bytes

  ;; At 64: the result of pick. At 72: the result of init. From 1024 on: the list of ready subconns.
  (global $count (mut i32) (i32.const 0)) ;; number of ready subconns
  (global $next (mut i32) (i32.const 0))  ;; index of the next pick
  (global $given (mut i32) (i32.const 1024)) ;; end of the memory allocated for the host

  ;; Allocates memory for the host: `size` bytes, aligned to `align`. The host never frees it; each of the exports below
  ;; releases what was allocated for it when it returns. (`old` and `old_size` are for lists that grow, which the
  ;; contract does not have.)
  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $given) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $given (i32.add (local.get $at) (local.get $size)))
    ;; Pages are 64 KiB. If memory cannot grow, the instance traps, and the host starts another one.
    (if (i32.gt_u (global.get $given) (i32.mul (memory.size) (i32.const 65536)))
      (then
        (if
          (i32.eq
            (memory.grow
              (i32.sub
                (i32.add (i32.shr_u (global.get $given) (i32.const 16)) (i32.const 1))
                (memory.size)))
            (i32.const -1))
          (then (unreachable)))))
    (local.get $at))

  ;; lifecycle.init: func(config: string, where: placement) -> result<_, string>
  ;;
  ;; A string is two numbers: its address, and its length in bytes. A record is its fields, one after the other. A
  ;; result of more than one number is stored in memory, and its address is returned. Here: at 72 whether it is an error
  ;; (one byte), and at 76, aligned as the string needs, the string.
  (func (export "hotpick:policy/lifecycle@0.1.0#init")
    (param $config i32) (param $config_length i32)
    (param $target i32) (param $target_length i32) (param $shard i32) (param $shards i32)
    (param $seed i64) (param $generation i64)
    (result i32)
    ;; A random start, so that many clients do not all start with the same backend.
    (global.set $next (i32.wrap_i64 (local.get $seed)))
    (i32.store8 (i32.const 72) (i32.const 1))
    (i32.store (i32.const 76) (i32.const 0))
    (i32.store (i32.const 80) (i32.const 59))
    ;; "{}" is 0x7d7b: memory is little-endian.
    (if (i32.eq (local.get $config_length) (i32.const 2))
      (then
        (i32.store8 (i32.const 72)
          (i32.ne (i32.load16_u align=1 (local.get $config)) (i32.const 0x7d7b)))))
    (global.set $given (i32.const 1024))
    (i32.const 72))

  ;; endpoints.changed: func(added: list<endpoint>, removed: list<subconn>, now: nanos)
  ;;
  ;; Round robin uses no data of endpoints.
  (func (export "hotpick:policy/endpoints@0.1.0#changed")
    (param $added i32) (param $added_count i32) (param $removed i32) (param $removed_count i32) (param $now i64)
    (call $forget))

  ;; endpoints.ready: func(ready: list<subconn>, now: nanos)
  ;;
  ;; A subconn is a u32, so the list is an array of u32. It replaces the previous list.
  (func (export "hotpick:policy/endpoints@0.1.0#ready") (param $ready i32) (param $count i32) (param $now i64)
    (global.set $count (local.get $count))
    (memory.copy (i32.const 1024) (local.get $ready) (i32.mul (local.get $count) (i32.const 4)))
    (if (local.get $count)
      (then (global.set $next (i32.rem_u (global.get $next) (local.get $count)))))
    (call $forget))

  ;; Releases what the host passed: the next allocation starts right after the list.
  (func $forget
    (global.set $given (i32.add (i32.const 1024) (i32.mul (global.get $count) (i32.const 4)))))

  ;; picker.pick: func(info: pick-info) -> pick-result
  ;;
  ;; An option is two numbers; the first says whether there is a value. The result is a variant: the number of its case
  ;; (one byte), and at offset 4 the value of the case.
  (func (export "hotpick:policy/picker@0.1.0#pick")
    (param $call i64) (param $method i32) (param $has_affinity i32) (param $affinity i64) (param $random i64)
    (param $now i64) (param $attempt i32) (param $wait_for_ready i32) (param $requeued i32)
    (result i32)
    (if (i32.eqz (global.get $count))
      (then
        (i32.store8 (i32.const 64) (i32.const 1)) ;; queue
        (return (i32.const 64))))
    (i32.store8 (i32.const 64) (i32.const 0)) ;; pick
    (i32.store (i32.const 68)
      (i32.load offset=1024 (i32.mul (global.get $next) (i32.const 4))))
    (global.set $next (i32.add (global.get $next) (i32.const 1)))
    (if (i32.eq (global.get $next) (global.get $count))
      (then (global.set $next (i32.const 0))))
    (i32.const 64)))
