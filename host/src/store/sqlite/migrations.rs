//! The migrations of the schema, compiled in.
//!
//! They are listed by hand. `sqlx::migrate!` would read the folder, but its crate of macros has a SQLite of its own,
//! which would be compiled besides the gateway's.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// The file `migrations/sqlite/<number>_<name>.sql`.
macro_rules! migration {
    ($number:literal, $name:literal) => {
        (
            concat!($number, "_", $name),
            include_str!(concat!("../../../migrations/sqlite/", $number, "_", $name, ".sql")),
        )
    };
}

/// All migrations, oldest first. A migration that was released is never edited: the store remembers its checksum.
const MIGRATIONS: &[(&str, &str)] = &[
    migration!("0001", "first"),
    migration!("0002", "managing"),
    migration!("0003", "plugins_as_a_product"),
    migration!("0004", "plugin_versions"),
    migration!("0005", "surfaces"),
    migration!("0006", "kept_once"),
    migration!("0007", "chunks"),
    migration!("0008", "uses_of_secrets"),
    migration!("0009", "delivery_turns"),
    migration!("0010", "state_by_rows"),
    migration!("0011", "changes"),
    migration!("0012", "journal"),
    migration!("0013", "spending"),
    migration!("0014", "models"),
    migration!("0015", "approvals"),
    migration!("0016", "mcp_servers"),
    migration!("0017", "sealed_tokens"),
];

/// Applies the migrations that a database lacks.
pub(in crate::store) fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().zip(1..).map(|(&(name, sql), version)| {
        let description = name.split_once('_').map_or(name, |(_, description)| description);
        let (kind, description) = (MigrationType::Simple, description.replace('_', " "));
        Migration::new(version, description.into(), kind, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_listed_under_its_number() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");
        let files = std::fs::read_dir(folder).unwrap();
        let mut files: Vec<_> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let listed: Vec<_> = MIGRATIONS.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(listed, files);
        for (version, (name, _)) in (1..).zip(MIGRATIONS) {
            assert!(name.starts_with(&format!("{version:04}_")), "{name} is not number {version}");
        }
    }
}
