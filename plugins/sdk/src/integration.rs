//! A provider's integration as one type: verifier, mapper, settings and, optionally, replier.

use crate::about::Diagnostic;
use crate::host::Host;
use crate::mapper::Mapped;
use crate::settings::{Setting, SettingValues};
use crate::verifier::Principal;
use crate::{Failure, HttpReply};
/// Used by [`export_integration!`](crate::export_integration), so that a plugin with the standard library
/// need not declare `extern crate alloc`.
#[doc(hidden)]
pub use alloc::vec::Vec;

/// The integration of one provider. [`export_integration!`](crate::export_integration) exports it as a
/// plugin.
pub trait Integration {
    /// Every setting that the integration reads.
    const SETTINGS: &'static [Setting];

    /// Authenticates the sender of the request.
    fn verify<H: Host>(host: &H) -> Result<Principal, Failure>;

    /// Decides what to do with a verified request: run, ignore or reply.
    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure>;

    /// Checks settings against each other. It is called only if each setting is valid by itself, with all
    /// of them, defaults included.
    fn check_settings(_settings: &SettingValues) -> Vec<Diagnostic> {
        Vec::new()
    }

    /// Shapes the response to the request.
    fn reply<H: Host>(_host: &H) -> Result<HttpReply, Failure> {
        Err(Failure::new("unsupported", "this integration does not shape answers"))
    }

    /// Delivers the answer of a run whose request has already been acknowledged.
    fn deliver<H: Host>(_host: &H) -> Result<(), Failure> {
        Err(Failure::new("unsupported", "this integration does not deliver answers"))
    }
}

/// Implements `about.check-config`: validates each setting, then calls [`Integration::check_settings`].
pub fn check_config<I: Integration>(config: &str) -> Vec<Diagnostic> {
    let (settings, problems) = crate::settings::validate(I::SETTINGS, config);
    if problems.is_empty() { I::check_settings(&settings) } else { problems }
}

/// Exports a type that implements [`integration::Integration`](crate::integration::Integration) with the
/// roles verifier, payload mapper and about. `export_integration!(Type, replier)` exports the role replier
/// as well.
#[macro_export]
macro_rules! export_integration {
    ($plugin:ident) => {
        impl $crate::verifier::Guest for $plugin {
            fn verify() -> Result<$crate::verifier::Principal, $crate::Failure> {
                <$plugin as $crate::integration::Integration>::verify(&$crate::host::Gateway)
            }
        }
        impl $crate::mapper::Guest for $plugin {
            fn map_payload(
                _spec: Option<$crate::Json>,
            ) -> Result<$crate::mapper::Mapped, $crate::Failure> {
                <$plugin as $crate::integration::Integration>::map_payload(&$crate::host::Gateway)
            }
        }
        impl $crate::about::Guest for $plugin {
            fn config_schema() -> $crate::Json {
                $crate::settings::json_schema(
                    <$plugin as $crate::integration::Integration>::SETTINGS,
                )
            }
            fn check_config(
                config: $crate::Json,
            ) -> $crate::integration::Vec<$crate::about::Diagnostic> {
                $crate::integration::check_config::<$plugin>(&config)
            }
        }
        $crate::export_verifier!($plugin);
        $crate::export_mapper!($plugin);
        $crate::export_about!($plugin);
    };
    ($plugin:ident, replier) => {
        impl $crate::replier::Guest for $plugin {
            fn reply() -> Result<$crate::HttpReply, $crate::Failure> {
                <$plugin as $crate::integration::Integration>::reply(&$crate::host::Gateway)
            }
            fn deliver() -> Result<(), $crate::Failure> {
                <$plugin as $crate::integration::Integration>::deliver(&$crate::host::Gateway)
            }
        }
        $crate::export_replier!($plugin);
        $crate::export_integration!($plugin);
    };
}
