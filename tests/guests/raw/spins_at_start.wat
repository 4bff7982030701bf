;; A loop without end before the first function is called.
(func $spin (loop $again (br $again)))
(start $spin)
(func (export "get-value") (param i32 i32) (result i32) unreachable)
