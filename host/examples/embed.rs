//! Serves a gateway from another program: its own routes, settings and shutdown.
//!
//! `cargo run -p wardgate --example embed`, then `curl http://127.0.0.1:8080/healthz`.

use std::path::Path;

use tokio::net::TcpListener;
use wardgate::clock::Clock;
use wardgate::gateway::{DataFolder, Gateway};
use wardgate::settings::Settings;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut settings = Settings::of_defaults()?;
    settings.http.listen = ([127, 0, 0, 1], 8080).into();
    settings.check()?;

    let folder = DataFolder::open(Path::new("wardgate-data"), Clock::system()).await?;
    let listener = TcpListener::bind(settings.http.listen).await?;
    let gateway = Gateway::build(&folder, settings, listener.local_addr()?).await?;

    // Serves until Ctrl-C; requests and runs in progress then have `http.drain_seconds_max` to end.
    gateway.run(listener, async { drop(tokio::signal::ctrl_c().await) }).await
}
