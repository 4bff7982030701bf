//! A mapper that never returns.

guests::mapper!(|_| loop {
    std::hint::spin_loop();
});
