//! A plugin's grants: the operator's file, and whether it is in force for the current component.
//!
//! An operator grants to a component, and a tenant's admin may install another one under the same name. A file that
//! does not name its component is in force for bundled components and for those that an operator installed. For
//! a component that an admin installed, the file has to name it.

use std::path::{Path, PathBuf};

use super::catalog::CurrentComponent;
use super::{PluginUnavailable, Plugins};
use crate::disk::{run_blocking, write_atomic};
use crate::ids::{PluginName, SecretName, TenantId};
use crate::sandbox::{Components, Grants, Pin};

/// The grants file of a tenant's plugin in this data folder.
#[must_use]
pub fn grants_path(folder: &Path, tenant: TenantId, name: &PluginName) -> PathBuf {
    folder.join("grants").join(tenant.to_string()).join(format!("{name}.toml"))
}

impl Plugins {
    /// Replaces a plugin's grants. Returns notes for the operator, one sentence each: missing grants and missing
    /// settings. Grants that do not name a component are rejected while the current one was not installed by an
    /// operator: a tenant's admin may have replaced it a moment ago.
    ///
    /// # Errors
    /// [`PluginUnavailable`]; the grants are unchanged then.
    pub async fn put_grants(
        &self,
        tenant: TenantId,
        name: &PluginName,
        text: &str,
    ) -> Result<Vec<String>, PluginUnavailable> {
        let current = self.current(tenant, name).await?;
        let grants = self.check_submitted(tenant, name, text).await?;
        let is_silent = grants.pin().is_unset();
        let grants = self.effective_grants(tenant, grants, &current);
        if let (true, Some(why)) = (is_silent, grants.inactive_reason()) {
            return Err(PluginUnavailable::GrantsWithheld(name.clone(), why.to_owned()));
        }
        // A plugin can reject changed settings, and nothing else: revoking a grant must not depend on the plugin.
        let before =
            self.grants_text(tenant, name).await.and_then(|text| parse_grants(name, &text)).ok();
        let same = before.is_some_and(|before| before.settings() == grants.settings());
        let notes = match self.load(tenant, name, &current).await {
            Ok(loaded) => match self.validate_grants(tenant, name, &loaded, &grants).await {
                Err(error @ PluginUnavailable::Settings(..)) if !same => return Err(error),
                notes => notes.unwrap_or_else(|error| vec![error.to_string()]),
            },
            Err(error) => vec![error.to_string()],
        };
        let changes = self.tenant_changes(tenant);
        let _alone = changes.change.lock().await;
        self.write_grants(tenant, name, text).await?;
        self.publish_change(tenant).await;
        Ok(notes)
    }

    /// Parses and checks submitted grants. The error goes to the submitter.
    pub(super) async fn check_submitted(
        &self,
        tenant: TenantId,
        name: &PluginName,
        text: &str,
    ) -> Result<Grants, PluginUnavailable> {
        let wrong = |error| PluginUnavailable::Grants(name.clone(), error);
        let grants = Grants::parse(text).map_err(wrong)?;
        let secrets = match grants.secret_names().next() {
            Some(_) => self.vault.list(tenant).await?,
            None => Vec::new(),
        };
        let uses = |name: &SecretName| {
            secrets.iter().find(|secret| secret.name == *name).map(|secret| &secret.uses)
        };
        grants.check_uses(uses).map_err(wrong)?;
        match &grants.pin().signer {
            Some(signer) if !self.signers.knows(signer) => {
                Err(PluginUnavailable::UnknownSigner(name.clone(), signer.clone()))
            }
            _ => Ok(grants),
        }
    }

    /// The grants that are in force for this component.
    pub(super) fn effective_grants(
        &self,
        tenant: TenantId,
        grants: Grants,
        current: &CurrentComponent,
    ) -> Grants {
        let given = grants.granted_tables();
        // A file that only restricts is in force for every component.
        if given.is_empty() {
            return grants;
        }
        match self.withholding_reason(grants.pin(), current) {
            None => grants,
            Some(why) => {
                let name = current.name();
                let given = given.join(", ");
                let why = format!(
                    "what grants/{tenant}/{name}.toml grants is not in force ({given}): {why}"
                );
                grants.deactivated(why)
            }
        }
    }

    /// Why grants are withheld from this component, and the line that grants them. None if they are in force.
    fn withholding_reason(&self, pin: &Pin, current: &CurrentComponent) -> Option<String> {
        let digest = current.digest();
        match &pin.components {
            Some(Components::Only(digests)) if !digests.contains(&digest) => {
                return Some(format!(
                    "they are for another component; for this one the file would have to name it too: \
                     component = [\"{digest}\", …]"
                ));
            }
            None if pin.signer.is_none() => {
                let who = current.unvouched_reason()?;
                return Some(format!(
                    "{who}; to let it have them, an operator writes at the top of the file: \
                     component = \"{digest}\""
                ));
            }
            Some(_) | None => {}
        }
        let signer = pin.signer.as_deref()?;
        let signed = match current {
            CurrentComponent::Bundled { .. } => None,
            CurrentComponent::Installed(installed) => installed.signed.as_ref(),
        };
        if self.signers.has_signed(signer, signed) {
            return None;
        }
        Some(match self.signers.knows(signer) {
            true => {
                format!("they are for what {signer} has signed, and {signer} did not sign this one")
            }
            false => format!(
                "they are for what {signer} has signed, and the settings have no such signer \
                 (plugins.signers)"
            ),
        })
    }

    /// A note about grants that were there before, for an installation or rollback that does not replace them.
    /// None if the file grants nothing.
    pub(super) fn inherited_grants_note(
        tenant: TenantId,
        name: &PluginName,
        grants: &Grants,
    ) -> Option<String> {
        let given = grants.granted_tables();
        (!given.is_empty()).then(|| {
            format!("it has what grants/{tenant}/{name}.toml grants: {}", given.join(", "))
        })
    }

    /// The text of the grants file, if it is in force for the current component.
    pub async fn grants_text_in_force(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Option<String> {
        let text = self.grants_text(tenant, name).await.ok()?;
        let current = self.current(tenant, name).await.ok()?;
        let grants = self.effective_grants(tenant, parse_grants(name, &text).ok()?, &current);
        grants.inactive_reason().is_none().then_some(text)
    }

    /// The text of the grants file. Empty if there is no file; nothing is granted then.
    ///
    /// # Errors
    /// [`PluginUnavailable::File`] if the file exists and cannot be read.
    pub async fn grants_text(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<String, PluginUnavailable> {
        match tokio::fs::read_to_string(self.grants_path(tenant, name)).await {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(PluginUnavailable::File(name.clone(), "its grants file", error)),
        }
    }

    /// Replaces the grants file.
    pub(super) async fn write_grants(
        &self,
        tenant: TenantId,
        name: &PluginName,
        text: &str,
    ) -> Result<(), PluginUnavailable> {
        let (path, text) = (self.grants_path(tenant, name), text.to_owned());
        let written = run_blocking(move || write_atomic(&path, text.as_bytes())).await;
        written.map_err(|error| PluginUnavailable::File(name.clone(), "its grants file", error))
    }

    /// The grants file of a tenant's plugin.
    #[must_use]
    pub fn grants_path(&self, tenant: TenantId, name: &PluginName) -> PathBuf {
        grants_path(&self.folder, tenant, name)
    }
}

/// Parses the text of a stored grants file. Errors are logged in full and returned without the text.
pub(super) fn parse_grants(name: &PluginName, text: &str) -> Result<Grants, PluginUnavailable> {
    Grants::parse(text).map_err(|error| {
        tracing::error!(plugin = %name, %error, "a grants file cannot be read");
        PluginUnavailable::GrantsInForce(name.clone())
    })
}
