;; A host call while the host lowers the result of one, and so on.
(func $realloc (param i32 i32 i32 i32) (result i32)
  (call $path (i32.const 512))
  (i32.const 2048))
(func (export "get-value") (param i32 i32) (result i32)
  (call $path (i32.const 512))
  (i32.const 1024))
