;; A component from elsewhere whose only function counts to a hundred million: a tool that takes some ticks.
(component
  (core module $guest
    (func (export "count") (local $left i64)
      (local.set $left (i64.const 100_000_000))
      (loop $again
        (local.set $left (i64.sub (local.get $left) (i64.const 1)))
        (br_if $again (i64.ne (local.get $left) (i64.const 0))))))
  (core instance $guest (instantiate $guest))
  (func $count (canon lift (core func $guest "count")))
  (export "count" (func $count)))
