;; A component from elsewhere whose only function loops without end: a tool.
(component
  (core module $guest (func (export "loop") (loop $again (br $again))))
  (core instance $guest (instantiate $guest))
  (func $loop (canon lift (core func $guest "loop")))
  (export "loop" (func $loop)))
