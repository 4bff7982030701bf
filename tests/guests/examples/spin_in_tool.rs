//! A tool that never returns.

guests::tool!("spin", |_| loop {
    std::hint::spin_loop();
});
