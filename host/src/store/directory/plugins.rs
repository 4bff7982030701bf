//! Tenants' plugins: the versions of each, and which of them is current.

use std::collections::HashSet;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::ids::{PluginDigest, PluginName, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows::{installer, parse, parsed, timestamp};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tenants::{InstalledPlugin, Installer, PluginVersion, VerifiedSignature};

/// Selects versions, in the columns that [`version`] reads.
macro_rules! select_versions {
    ($rest:literal) => {
        concat!(
            "SELECT name, digest, installed_at, installed_by, provenance, version, signer, \
             signer_key, trusted_comment, is_current, is_skipped FROM plugin_versions ",
            $rest
        )
    };
}

impl Store {
    /// Stores a version of a tenant's plugin and makes it current. Versions that were rolled back from are skipped
    /// from now on; of more than `versions_max` versions the oldest are deleted. If this component is already
    /// current, it stays the same version and its metadata is updated. A component that an operator has installed
    /// stays the operator's if an admin installs it again.
    ///
    /// Returns the components of the deleted versions.
    ///
    /// # Errors
    /// If the tenant does not exist ([`StoreError::Missing`]).
    pub async fn put_plugin(
        &self,
        tenant: TenantId,
        plugin: &InstalledPlugin,
        versions_max: u32,
    ) -> Result<Vec<PluginDigest>, StoreError> {
        self.write(PutPlugin { tenant, plugin: plugin.clone(), versions_max }).await
    }

    /// Makes another version of a tenant's plugin current, if `from` still is.
    ///
    /// # Errors
    /// If `from` is not current, or if there is no version `to` any more ([`StoreError::Stale`]).
    pub async fn switch_plugin(
        &self,
        tenant: TenantId,
        name: &PluginName,
        from: PluginDigest,
        to: PluginDigest,
    ) -> Result<(), StoreError> {
        self.write(SwitchPlugin { tenant, name: name.clone(), from, to }).await
    }

    /// Deletes a plugin of a tenant with all its versions, and returns their components: none if there is no plugin
    /// with this name.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn delete_plugin(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Vec<PluginDigest>, StoreError> {
        self.write(DeletePlugin { tenant, name: name.clone() }).await
    }

    /// The current version of a tenant's plugin.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn plugin(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Option<InstalledPlugin>, StoreError> {
        let query =
            sqlx::query(select_versions!("WHERE tenant_id = ? AND name = ? AND is_current"))
                .bind(tenant.as_bytes().as_slice())
                .bind(name.as_str());
        Ok(self.one("read a plugin", query, version).await?.map(|version| version.plugin))
    }

    /// The tenant's plugins in their current versions, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn plugins(&self, tenant: TenantId) -> Result<Vec<InstalledPlugin>, StoreError> {
        let query =
            sqlx::query(select_versions!("WHERE tenant_id = ? AND is_current ORDER BY name"))
                .bind(tenant.as_bytes().as_slice());
        let current = self.many("list the plugins", query, version).await?;
        Ok(current.into_iter().map(|version| version.plugin).collect())
    }

    /// The versions of a tenant's plugin, most recently installed first. Empty if there is no plugin with this name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn plugin_versions(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Vec<PluginVersion>, StoreError> {
        let query =
            sqlx::query(select_versions!("WHERE tenant_id = ? AND name = ? ORDER BY number DESC"))
                .bind(tenant.as_bytes().as_slice())
                .bind(name.as_str());
        self.many("list a plugin's versions", query, version).await
    }

    /// Whether this component is a version of any tenant's plugin.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn is_component_needed(&self, digest: PluginDigest) -> Result<bool, StoreError> {
        let query = sqlx::query("SELECT 1 FROM plugin_versions WHERE digest = ? LIMIT 1")
            .bind(digest.to_string());
        Ok(self.one("look for a component", query, |_| Ok(())).await?.is_some())
    }

    /// The components that are the current version of some tenant's plugin, most recently installed first; at most
    /// `max` of them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn current_components(&self, max: u32) -> Result<Vec<PluginDigest>, StoreError> {
        let query = sqlx::query(
            "SELECT digest FROM plugin_versions WHERE is_current = 1 GROUP BY digest \
             ORDER BY max(installed_at) DESC LIMIT ?",
        )
        .bind(max);
        self.many("list the current components", query, |row| parsed(row, 0)).await
    }

    /// Every component that is a version of some tenant's plugin.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn needed_components(&self) -> Result<HashSet<PluginDigest>, StoreError> {
        let query = sqlx::query("SELECT DISTINCT digest FROM plugin_versions");
        let digests = self.many("list the components", query, |row| parsed(row, 0)).await?;
        Ok(digests.into_iter().collect())
    }
}

fn version(row: &SqliteRow) -> sqlx::Result<PluginVersion> {
    let installed_by = installer(row.try_get(3)?)?;
    let signed = match row.try_get::<Option<String>, _>(6)? {
        None => None,
        Some(signer) => Some(VerifiedSignature {
            signer,
            key: row.try_get(7)?,
            trusted_comment: row.try_get(8)?,
        }),
    };
    let plugin = InstalledPlugin {
        name: parsed(row, 0)?,
        digest: parsed(row, 1)?,
        installed_at: timestamp(row, 2)?,
        installed_by,
        provenance: parse(row.try_get(4)?)?,
        version: row.try_get(5)?,
        signed,
    };
    Ok(PluginVersion { plugin, is_current: row.try_get(9)?, is_skipped: row.try_get(10)? })
}

struct PutPlugin {
    tenant: TenantId,
    plugin: InstalledPlugin,
    versions_max: u32,
}

impl Write for PutPlugin {
    type Answer = Vec<PluginDigest>;
    const OPERATION: &'static str = "store a plugin";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for PutPlugin {
    async fn apply(&self, session: &mut Session<'_>) -> Result<Vec<PluginDigest>, Refusal> {
        let (tenant, name) = (self.tenant.as_bytes().as_slice(), self.plugin.name.as_str());
        let current = sqlx::query(
            "SELECT number, digest FROM plugin_versions \
             WHERE tenant_id = ? AND name = ? AND is_current",
        )
        .bind(tenant)
        .bind(name)
        .fetch_optional(&mut *session.db)
        .await?;
        let number = match current {
            Some(current) if parsed::<PluginDigest>(&current, 1)? == self.plugin.digest => {
                current.try_get(0)?
            }
            Some(current) => self.retire_current(current.try_get(0)?, session).await?,
            None => 1,
        };
        self.insert(number, session).await?;
        let forgotten = sqlx::query(
            "DELETE FROM plugin_versions WHERE tenant_id = ?1 AND name = ?2 AND number NOT IN \
             (SELECT number FROM plugin_versions WHERE tenant_id = ?1 AND name = ?2 \
              ORDER BY is_current DESC, number DESC LIMIT ?3) RETURNING digest",
        )
        .bind(tenant)
        .bind(name)
        .bind(self.versions_max.max(1))
        .fetch_all(&mut *session.db)
        .await?;
        Ok(forgotten.iter().map(|row| parsed(row, 0)).collect::<sqlx::Result<_>>()?)
    }
}

impl PutPlugin {
    /// Makes the current version an earlier one, marks the versions after it as skipped, and returns the next number.
    async fn retire_current(&self, current: i64, session: &mut Session<'_>) -> sqlx::Result<i64> {
        let (tenant, name) = (self.tenant.as_bytes().as_slice(), self.plugin.name.as_str());
        sqlx::query(
            "UPDATE plugin_versions SET is_current = FALSE, is_skipped = is_skipped OR number > ? \
             WHERE tenant_id = ? AND name = ?",
        )
        .bind(current)
        .bind(tenant)
        .bind(name)
        .execute(&mut *session.db)
        .await?;
        sqlx::query_scalar(
            "SELECT max(number) + 1 FROM plugin_versions WHERE tenant_id = ? AND name = ?",
        )
        .bind(tenant)
        .bind(name)
        .fetch_one(&mut *session.db)
        .await
    }

    async fn insert(&self, number: i64, session: &mut Session<'_>) -> sqlx::Result<()> {
        let plugin = &self.plugin;
        let signed = plugin.signed.as_ref();
        // A signature covers the bytes: once verified it stays valid, even if the same bytes are installed again
        // without it. Likewise, what an operator has installed stays the operator's.
        sqlx::query(
            "INSERT INTO plugin_versions (tenant_id, name, digest, number, is_current, \
             installed_at, installed_by, provenance, version, signer, signer_key, trusted_comment) \
             VALUES (?, ?, ?, ?, TRUE, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (tenant_id, name, digest) DO UPDATE SET number = excluded.number, \
             is_current = TRUE, is_skipped = FALSE, installed_at = excluded.installed_at, \
             installed_by = CASE installed_by WHEN 'operator' THEN installed_by \
                            ELSE excluded.installed_by END, provenance = excluded.provenance, \
             version = excluded.version, signer = coalesce(excluded.signer, signer), \
             signer_key = coalesce(excluded.signer_key, signer_key), \
             trusted_comment = coalesce(excluded.trusted_comment, trusted_comment)",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(plugin.name.as_str())
        .bind(plugin.digest.to_string())
        .bind(number)
        .bind(plugin.installed_at.micros())
        .bind(plugin.installed_by.map(Installer::as_str))
        .bind(plugin.provenance.to_string())
        .bind(&plugin.version)
        .bind(signed.map(|signed| &signed.signer))
        .bind(signed.map(|signed| &signed.key))
        .bind(signed.map(|signed| &signed.trusted_comment))
        .execute(&mut *session.db)
        .await?;
        Ok(())
    }
}

struct SwitchPlugin {
    tenant: TenantId,
    name: PluginName,
    from: PluginDigest,
    to: PluginDigest,
}

impl Write for SwitchPlugin {
    type Answer = ();
    const OPERATION: &'static str = "roll a plugin back";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for SwitchPlugin {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        // Both rows are checked before either is changed, so a rejected switch changes nothing.
        let found: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM plugin_versions WHERE tenant_id = ? AND name = ? \
             AND ((digest = ? AND is_current) OR digest = ?)",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.name.as_str())
        .bind(self.from.to_string())
        .bind(self.to.to_string())
        .fetch_one(&mut *session.db)
        .await?;
        if self.from == self.to || found != 2 {
            return Err(Refusal::Rules(StoreError::Stale { operation: Self::OPERATION }));
        }
        for (digest, is_current) in [(self.from, false), (self.to, true)] {
            sqlx::query(
                "UPDATE plugin_versions SET is_current = ?1, \
                 is_skipped = CASE WHEN ?1 THEN FALSE ELSE is_skipped END \
                 WHERE tenant_id = ?2 AND name = ?3 AND digest = ?4",
            )
            .bind(is_current)
            .bind(self.tenant.as_bytes().as_slice())
            .bind(self.name.as_str())
            .bind(digest.to_string())
            .execute(&mut *session.db)
            .await?;
        }
        Ok(())
    }
}

struct DeletePlugin {
    tenant: TenantId,
    name: PluginName,
}

impl Write for DeletePlugin {
    type Answer = Vec<PluginDigest>;
    const OPERATION: &'static str = "delete a plugin";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for DeletePlugin {
    async fn apply(&self, session: &mut Session<'_>) -> Result<Vec<PluginDigest>, Refusal> {
        let deleted = sqlx::query(
            "DELETE FROM plugin_versions WHERE tenant_id = ? AND name = ? RETURNING digest",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.name.as_str())
        .fetch_all(&mut *session.db)
        .await?;
        Ok(deleted.iter().map(|row| parsed(row, 0)).collect::<sqlx::Result<_>>()?)
    }
}
