;; Room for the host's text that is not there.
(func $realloc (param i32 i32 i32 i32) (result i32) (i32.const 0x7ffffff0))
(func (export "get-value") (param i32 i32) (result i32) unreachable)
