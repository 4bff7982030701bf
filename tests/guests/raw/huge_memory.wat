;; Four gigabytes from the start.
(memory $b 65536)
(func (export "get-value") (param i32 i32) (result i32) unreachable)
