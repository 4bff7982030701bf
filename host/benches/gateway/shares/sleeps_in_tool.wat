;; A component from elsewhere whose only function sleeps for twenty seconds, longer than any turn.
(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core module $guest
    (import "host" "block" (func $block (param i32)))
    (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
    (func (export "sleep") (call $block (call $subscribe (i64.const 20_000_000_000)))))
  (core instance $guest (instantiate $guest
    (with "host" (instance
      (export "block" (func $block))
      (export "subscribe" (func $subscribe))))))
  (func $sleep (canon lift (core func $guest "sleep")))
  (export "sleep" (func $sleep)))
