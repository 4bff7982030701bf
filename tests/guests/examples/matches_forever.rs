//! A mapper that makes the host compare a megabyte with a secret in an endless loop.

use guests::secrets;

guests::mapper!(|_| {
    let (key, presented) = (secrets::open("signing")?, vec![b'x'; 1 << 20]);
    loop {
        secrets::matches(&key, &presented);
    }
});
