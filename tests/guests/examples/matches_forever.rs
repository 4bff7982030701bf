//! A mapper that has the host compare a megabyte with a secret over and over.

use guests::secrets;

guests::mapper!(|_| {
    let (key, presented) = (secrets::open("signing")?, vec![b'x'; 1 << 20]);
    loop {
        secrets::matches(&key, &presented);
    }
});
