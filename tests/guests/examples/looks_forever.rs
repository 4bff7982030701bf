//! A mapper that looks into the payload over and over, each time in vain.

use guests::request;

guests::mapper!(|_| loop {
    std::hint::black_box(request::json("/not/there"));
});
