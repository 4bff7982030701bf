//! A mapper that looks up a missing pointer in the payload in an endless loop.

use guests::request;

guests::mapper!(|_| loop {
    std::hint::black_box(request::json("/not/there"));
});
