//! A getter whose value is a string of as many MiB as the path says, such as `getter=8`.

guests::getter!(|path| {
    let mib: usize = path.parse().unwrap_or(1);
    let mut value = vec![b'x'; mib << 20];
    value[0] = b'"';
    *value.last_mut().unwrap() = b'"';
    Ok(String::from_utf8(value).ok())
});
