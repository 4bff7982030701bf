//! Rust types generated from `wit/`, one module for each minor version of the package.

pub mod v0_1;
