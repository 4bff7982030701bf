;; Two memories that stay below the limit each, and are above it together.
(memory $own 1)
(func (export "get-value") (param i32 i32) (result i32)
  (if (i32.eq (memory.grow 0 (i32.const 120)) (i32.const -1)) (then unreachable))
  (if (i32.eq (memory.grow $own (i32.const 120)) (i32.const -1)) (then unreachable))
  (i32.const 1024))
