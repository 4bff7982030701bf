//! What a plugin is granted: the operator's file, and whether it is in force for the component that stands
//! under the plugin's name.
//!
//! What an operator grants is for a component, and a tenant's admin may put another one under the same name. A
//! file that says nothing of the component that it is for is in force for those that ship with the gateway
//! and for those that an operator installed; for one that an admin installed it has to say so.

use super::{PluginUnavailable, Plugins, grants_path};
use crate::disk::{on_disk, write_whole};
use crate::ids::{PluginDigest, PluginName, SecretName, TenantId};
use crate::sandbox::{Components, Grants, Pin};
use crate::tenants::{InstalledPlugin, Installer};

/// The component that a plugin's name stands for.
#[derive(Debug)]
pub(super) enum Current {
    /// One that ships with the gateway.
    Bundled { name: PluginName, digest: PluginDigest, component: &'static [u8] },
    /// The tenant's own.
    Installed(Box<InstalledPlugin>),
}

impl Current {
    fn name(&self) -> &PluginName {
        match self {
            Self::Bundled { name, .. } => name,
            Self::Installed(installed) => &installed.name,
        }
    }

    fn digest(&self) -> PluginDigest {
        match self {
            Self::Bundled { digest, .. } => *digest,
            Self::Installed(installed) => installed.digest,
        }
    }

    /// Why an operator does not answer for it. None: one does.
    fn is_not_the_operators(&self) -> Option<&'static str> {
        let Self::Installed(installed) = self else { return None };
        match installed.installed_by {
            Some(Installer::Operator) => None,
            Some(Installer::Admin) => Some("an admin of the tenant installed this component"),
            None => Some("this component was installed before it was written down by whom"),
        }
    }
}

impl Plugins {
    /// Says what a plugin of a tenant may do. What comes back is what an operator ought to know of it: which
    /// grants the plugin lacks, and which settings it misses, one sentence each. Grants that do not say which component they are for are refused
    /// while one is current that no operator answers for: a tenant's admin may have put it there a moment ago.
    ///
    /// # Errors
    /// [`PluginUnavailable`]; what was granted before stays then.
    pub async fn put_grants(
        &self,
        tenant: TenantId,
        name: &PluginName,
        text: &str,
    ) -> Result<Vec<String>, PluginUnavailable> {
        let current = self.current(tenant, name).await?;
        let grants = self.handed_in(tenant, name, text).await?;
        let is_silent = grants.pin().is_silent();
        let grants = self.in_force(tenant, grants, &current);
        if let (true, Some(why)) = (is_silent, grants.withheld_because()) {
            return Err(PluginUnavailable::GrantsWithheld(name.clone(), why.to_owned()));
        }
        // A plugin has a say in its settings where they change, and in nothing else: no grant that is taken
        // away may hang on it.
        let before = self.grants_text(tenant, name).await.and_then(|text| parsed(name, &text)).ok();
        let same = before.is_some_and(|before| before.settings() == grants.settings());
        let notes = match self.load(tenant, name, &current).await {
            Ok(loaded) => match self.fitness(tenant, name, &loaded, &grants).await {
                Err(error @ PluginUnavailable::Settings(..)) if !same => return Err(error),
                notes => notes.unwrap_or_else(|error| vec![error.to_string()]),
            },
            Err(error) => vec![error.to_string()],
        };
        let changes = self.of_tenant(tenant);
        let _alone = changes.change.lock().await;
        self.write_grants(tenant, name, text).await?;
        self.changed(tenant).await;
        Ok(notes)
    }

    /// Grants that somebody hands in, who is told what is wrong with them.
    pub(super) async fn handed_in(
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

    /// What of a plugin's grants is in force for this component.
    pub(super) fn in_force(&self, tenant: TenantId, grants: Grants, current: &Current) -> Grants {
        let given = grants.given();
        // A file that only takes away holds for every component.
        if given.is_empty() {
            return grants;
        }
        match self.why_not(grants.pin(), current) {
            None => grants,
            Some(why) => {
                let name = current.name();
                let given = given.join(", ");
                let why = format!(
                    "what grants/{tenant}/{name}.toml grants is not in force ({given}): {why}"
                );
                grants.withheld(why)
            }
        }
    }

    /// Why grants are not for this component, and the line that makes them so. None: they are.
    fn why_not(&self, pin: &Pin, current: &Current) -> Option<String> {
        let digest = current.digest();
        match &pin.components {
            Some(Components::Only(digests)) if !digests.contains(&digest) => {
                return Some(format!(
                    "they are for another component; for this one the file would have to name it too: \
                     component = [\"{digest}\", …]"
                ));
            }
            None if pin.signer.is_none() => {
                let who = current.is_not_the_operators()?;
                return Some(format!(
                    "{who}; to let it have them, an operator writes at the top of the file: \
                     component = \"{digest}\""
                ));
            }
            Some(_) | None => {}
        }
        let signer = pin.signer.as_deref()?;
        let signed = match current {
            Current::Bundled { .. } => None,
            Current::Installed(installed) => installed.signed.as_ref(),
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

    /// What a plugin has of the operator, for whoever installs a component or goes back to one without
    /// saying what it may do. None: nothing.
    pub(super) fn inherited(
        tenant: TenantId,
        name: &PluginName,
        grants: &Grants,
    ) -> Option<String> {
        let given = grants.given();
        (!given.is_empty()).then(|| {
            format!("it has what grants/{tenant}/{name}.toml grants: {}", given.join(", "))
        })
    }

    /// The operator's file, where what it gives is in force for the component that is current.
    pub async fn grants_text_in_force(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Option<String> {
        let text = self.grants_text(tenant, name).await.ok()?;
        let current = self.current(tenant, name).await.ok()?;
        let grants = self.in_force(tenant, parsed(name, &text).ok()?, &current);
        grants.withheld_because().is_none().then_some(text)
    }

    /// What the operator's file says; nothing where there is none, and nothing is granted then.
    ///
    /// # Errors
    /// [`PluginUnavailable::File`] where it is there and cannot be read.
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

    /// Writes the operator's file.
    pub(super) async fn write_grants(
        &self,
        tenant: TenantId,
        name: &PluginName,
        text: &str,
    ) -> Result<(), PluginUnavailable> {
        let (path, text) = (self.grants_path(tenant, name), text.to_owned());
        let written = on_disk(move || write_whole(&path, text.as_bytes())).await;
        written.map_err(|error| PluginUnavailable::File(name.clone(), "its grants file", error))
    }

    /// Where the operator says what a plugin of a tenant may do.
    #[must_use]
    pub fn grants_path(&self, tenant: TenantId, name: &PluginName) -> std::path::PathBuf {
        grants_path(&self.folder, tenant, name)
    }
}

/// What the operator's file says, as it lies there. What is wrong with it stands in the log.
pub(super) fn parsed(name: &PluginName, text: &str) -> Result<Grants, PluginUnavailable> {
    Grants::parse(text).map_err(|error| {
        tracing::error!(plugin = %name, %error, "a grants file cannot be read");
        PluginUnavailable::GrantsInForce(name.clone())
    })
}
