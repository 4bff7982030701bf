//! A provider's integration in one type: it verifies, maps, says what its settings are, and, where it
//! can, replies.

use crate::about::Diagnostic;
use crate::host::Host;
use crate::mapper::Mapped;
use crate::settings::{Setting, Texts};
use crate::verifier::Principal;
use crate::{Failure, HttpReply};
/// For [`export_integration!`](crate::export_integration), which a plugin with the standard library uses
/// without naming `alloc`.
#[doc(hidden)]
pub use alloc::vec::Vec;

/// What an integration implements. [`export_integration!`](crate::export_integration) makes a plugin
/// of it.
pub trait Integration {
    /// Every setting that it reads.
    const SETTINGS: &'static [Setting];

    /// Decides whether the request comes from whom it says.
    fn verify<H: Host>(host: &H) -> Result<Principal, Failure>;

    /// Says what is to be done about a request that was verified.
    fn map<H: Host>(host: &H) -> Result<Mapped, Failure>;

    /// Finds what is wrong between settings that are right each by itself. All of them are there.
    fn check(_settings: &Texts) -> Vec<Diagnostic> {
        Vec::new()
    }

    /// Answers the request itself.
    fn reply<H: Host>(_host: &H) -> Result<HttpReply, Failure> {
        Err(Failure::new("unsupported", "this integration does not shape answers"))
    }

    /// Delivers the answer after the request was acknowledged.
    fn deliver<H: Host>(_host: &H) -> Result<(), Failure> {
        Err(Failure::new("unsupported", "this integration does not deliver answers"))
    }
}

/// What `about.check-config` answers.
pub fn check_config<I: Integration>(config: &str) -> Vec<Diagnostic> {
    let (settings, problems) = crate::settings::check(I::SETTINGS, config);
    if problems.is_empty() { I::check(&settings) } else { problems }
}

/// Exports a type that implements [`integration::Integration`](crate::integration::Integration) as
/// verifier, payload mapper and about; with `, replier` behind it as replier too.
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
                <$plugin as $crate::integration::Integration>::map(&$crate::host::Gateway)
            }
        }
        impl $crate::about::Guest for $plugin {
            fn config_schema() -> $crate::Json {
                $crate::settings::schema(<$plugin as $crate::integration::Integration>::SETTINGS)
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
