;; A table that is too large from the start.
(table 100000000 funcref)
(func (export "get-value") (param i32 i32) (result i32) unreachable)
