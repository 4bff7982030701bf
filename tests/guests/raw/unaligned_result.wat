;; A result at an address where none can be.
(func (export "get-value") (param i32 i32) (result i32) (i32.const 0x7ffffffd))
