//! A getter whose value has as many MiB as the path says: `getter=8`.

guests::getter!(|path| {
    let mib: usize = path.parse().unwrap_or(1);
    Ok(Some(format!("\"{}\"", "x".repeat(mib << 20))))
});
