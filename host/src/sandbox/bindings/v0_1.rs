//! Bindings of `wardgate:plugin` 0.1, generated from `wit/`.
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::allow_attributes_without_reason,
    reason = "generated from wit/, where the documentation is"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "wardgate:plugin/plugin",
    imports: {
        "wardgate:plugin/egress.send": async,
        "wasi:keyvalue/store.[method]bucket.get": async | trappable,
        "wasi:keyvalue/store.[method]bucket.set": async | trappable,
        "wasi:keyvalue/store.[method]bucket.delete": async | trappable,
        "wasi:keyvalue/store.[method]bucket.exists": async | trappable,
        "wasi:keyvalue/store.[method]bucket.list-keys": async | trappable,
        "wasi:keyvalue/atomics.increment": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "wardgate:plugin/secrets.secret": crate::sandbox::bound_secret::GrantedSecret,
        "wasi:keyvalue/store.bucket": crate::sandbox::values::Bucket,
    },
    require_store_data_send: true,
});
