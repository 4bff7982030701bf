//! A mapper that makes the host sign a megabyte in an endless loop: the host computes, not the guest.

use guests::secrets;

guests::mapper!(|_| {
    let (key, message) = (secrets::open("signing")?, vec![b'x'; 1 << 20]);
    loop {
        secrets::hmac_sign(&key, "sha512", &message)?;
    }
});
