;; A component from elsewhere whose only function has the host keep 240 fields of 120,000 bytes each for it, and
;; sleeps for twenty seconds then, longer than any turn. Its own memory is four pages.
(component
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (import "wasi:http/types@0.2.0" (instance $http
    (export "fields" (type $fields (sub resource)))
    (type $cases (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
    (export "header-error" (type $header-error (eq $cases)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]fields.append"
      (func (param "self" (borrow $fields)) (param "name" string) (param "value" (list u8))
        (result (result (error $header-error)))))))
  (core module $room (memory (export "memory") 4))
  (core instance $room (instantiate $room))
  (alias core export $room "memory" (core memory $memory))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core func $fields (canon lower (func $http "[constructor]fields")))
  (core func $append (canon lower (func $http "[method]fields.append") (memory $memory)))
  (core module $guest
    (import "room" "memory" (memory 4))
    (import "host" "block" (func $block (param i32)))
    (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "host" "fields" (func $fields (result i32)))
    (import "host" "append" (func $append (param i32 i32 i32 i32 i32 i32)))
    (func (export "hold") (local $left i32)
      ;; The name is the first byte, the value what lies behind the first 64.
      (memory.fill (i32.const 0) (i32.const 120) (i32.const 130_000))
      (local.set $left (i32.const 240))
      (loop $again
        (call $append (call $fields) (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 120_000)
          (i32.const 200_000))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left)))
      (call $block (call $subscribe (i64.const 20_000_000_000)))))
  (core instance $guest (instantiate $guest
    (with "room" (instance $room))
    (with "host" (instance
      (export "block" (func $block))
      (export "subscribe" (func $subscribe))
      (export "fields" (func $fields))
      (export "append" (func $append))))))
  (func $hold (canon lift (core func $guest "hold")))
  (export "hold" (func $hold)))
