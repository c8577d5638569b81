;; A stub of WASI preview 1 for policies whose language requires it (Go, and parts of C++). There are no arguments, no
;; environment and no files, and no function blocks. Output becomes lines of the host's log: a runtime mostly writes why it
;; ends. No other function calls the host, so a runtime may call them at any time, even while the host passes a list.
;;
;; Policies get time and randomness from the contract. The clock of this stub advances by a microsecond at each call, and
;; its random numbers are always the same.
(module
  (import "env" "memory" (memory 0))
  (import "hotpick:policy/env@0.1.0" "log" (func $log (param i32 i32 i32)))
  (global $time (mut i64) (i64.const 1))
  (global $random (mut i64) (i64.const 0x2545F4914F6CDD1D))

  ;; Error codes of WASI.
  ;;   0 success, 8 badf (no such file descriptor)

  (func $two_zeros (param $a i32) (param $b i32) (result i32)
    (i32.store (local.get $a) (i32.const 0))
    (i32.store (local.get $b) (i32.const 0))
    (i32.const 0))
  (func $success (param i32 i32) (result i32) (i32.const 0))
  (export "args_sizes_get" (func $two_zeros))
  (export "environ_sizes_get" (func $two_zeros))
  (export "args_get" (func $success))
  (export "environ_get" (func $success))

  (func (export "sched_yield") (result i32) (i32.const 0))
  ;; Ends the instance. The host starts another one.
  (func (export "proc_exit") (param i32) (unreachable))

  (func (export "clock_time_get") (param $clock i32) (param $precision i64) (param $out i32) (result i32)
    (global.set $time (i64.add (global.get $time) (i64.const 1000)))
    (i64.store (local.get $out) (global.get $time))
    (i32.const 0))
  (func (export "clock_res_get") (param $clock i32) (param $out i32) (result i32)
    (i64.store (local.get $out) (i64.const 1000))
    (i32.const 0))

  ;; A linear congruential generator, with the constants of Knuth's MMIX.
  (func (export "random_get") (param $at i32) (param $length i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (global.set $random
          (i64.add
            (i64.mul (global.get $random) (i64.const 6364136223846793005))
            (i64.const 1442695040888963407)))
        (i32.store8 (local.get $at) (i32.wrap_i64 (i64.shr_u (global.get $random) (i64.const 33))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; File descriptor 2 is standard error.
  (func (export "fd_write") (param $fd i32) (param $vectors i32) (param $count i32) (param $out i32) (result i32)
    (local $sum i32)
    (local $level i32)
    ;; The log level: 2 is info, 4 is error.
    (local.set $level (select (i32.const 4) (i32.const 2) (i32.eq (local.get $fd) (i32.const 2))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (if (i32.load offset=4 (local.get $vectors))
          (then
            (call $log
              (local.get $level)
              (i32.load (local.get $vectors))
              (i32.load offset=4 (local.get $vectors)))))
        (local.set $sum (i32.add (local.get $sum) (i32.load offset=4 (local.get $vectors))))
        (local.set $vectors (i32.add (local.get $vectors) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $out) (local.get $sum))
    (i32.const 0))

  ;; Reports at once that the first subscription has fired: an event of 32 bytes, with its user data and zeros.
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $events i32) (result i32)
    (i64.store (local.get $out) (i64.load (local.get $in)))
    (i64.store offset=8 (local.get $out) (i64.const 0))
    (i64.store offset=16 (local.get $out) (i64.const 0))
    (i64.store offset=24 (local.get $out) (i64.const 0))
    (i32.store (local.get $events) (i32.const 1))
    (i32.const 0))

  (func $no_such_file (param i32) (result i32) (i32.const 8))
  (func $no_such_file2 (param i32 i32) (result i32) (i32.const 8))
  (func $no_such_file3 (param i32 i32 i32) (result i32) (i32.const 8))
  (func $no_such_file4 (param i32 i32 i32 i32) (result i32) (i32.const 8))
  (export "fd_close" (func $no_such_file))
  (export "fd_fdstat_get" (func $no_such_file2))
  (export "fd_fdstat_set_flags" (func $no_such_file2))
  (export "fd_filestat_get" (func $no_such_file2))
  (export "fd_prestat_get" (func $no_such_file2))
  (export "fd_prestat_dir_name" (func $no_such_file3))
  (export "fd_read" (func $no_such_file4))
  (func (export "fd_seek") (param $fd i32) (param $offset i64) (param $whence i32) (param $out i32) (result i32)
    (i32.const 8)))
