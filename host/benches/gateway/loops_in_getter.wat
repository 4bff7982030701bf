;; A getter that loops without end: a short call, as a mapping is.
(component
  (core module $guest
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
    (func (export "get-value") (param i32 i32) (result i32) (loop $again (br $again)) unreachable))
  (core instance $guest (instantiate $guest))
  (alias core export $guest "memory" (core memory $memory))
  (alias core export $guest "realloc" (core func $realloc))
  (type $failure (record (field "code" string) (field "message" string)
    (field "retry-after-ms" (option u64)) (field "extra" (option string))))
  (func $get-value (param "path" string) (result (result (option string) (error $failure)))
    (canon lift (core func $guest "get-value") (memory $memory) (realloc $realloc)))
  (component $getter
    (type $record (record (field "code" string) (field "message" string)
      (field "retry-after-ms" (option u64)) (field "extra" (option string))))
    (import "a-failure" (type $failure (eq $record)))
    (import "a-getter" (func $get-value (param "path" string)
      (result (result (option string) (error $failure)))))
    (export $exported "failure" (type $failure))
    (export "get-value" (func $get-value)
      (func (param "path" string) (result (result (option string) (error $exported))))))
  (instance $getter (instantiate $getter
    (with "a-failure" (type $failure)) (with "a-getter" (func $get-value))))
  (export "wardgate:plugin/response-getter@0.1.0" (instance $getter)))
