//! The WASI context of a plugin: clocks, random numbers, and a folder if one is granted. There is no environment,
//! there are no arguments, and the only network is HTTP through egress. The end of the output streams goes to the
//! call's log.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use wasmtime_wasi::{FsPerms, HostMonotonicClock, HostWallClock, WasiCtx};

use super::grants::{Clocks, EffectiveGrants, FolderAccess, Random};
use super::recording::{HostResponse, HostSource, lock};
use super::standard_streams::StandardStreams;
use crate::clock::Clock;

/// Largest random buffer that a guest may request at once, in bytes.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// The guest's path of a granted folder.
const FOLDER: &str = "/data";

/// The WASI context of one call.
pub(super) fn context(
    granted: &EffectiveGrants,
    source: &HostSource,
    clock: &Clock,
    streams: &StandardStreams,
) -> WasiCtx {
    let mut builder = WasiCtx::builder();
    builder.stdout(streams.clone()).stderr(streams.clone());
    builder.max_random_size(RANDOM_BYTES_MAX).allow_tcp(false).allow_udp(false);
    // File operations are moved to a thread for files before wasmtime-wasi runs them, so it may block that thread.
    builder.allow_blocking_current_thread(true);
    let frozen = granted.clocks() == Clocks::Frozen;
    let wall = WallClock {
        source: source.clone(),
        clock: clock.clone(),
        frozen: frozen.then(|| nanos_of(clock)),
    };
    let monotonic = Monotonic { source: source.clone(), begun: Instant::now(), frozen };
    builder.wall_clock(wall).monotonic_clock(monotonic);
    let seed = seed(granted, source);
    builder
        .secure_random(StdRng::from_seed(seed))
        .insecure_random(StdRng::from_seed(seed))
        .insecure_random_seed(u128::from_le_bytes(*seed.first_chunk().unwrap_or(&[0; 16])));
    // A scripted call gets no folder: a script cannot answer for files.
    if let (Some(folder), HostSource::Live(_)) = (granted.folder(), source) {
        let access = match folder.access {
            FolderAccess::Read => FsPerms::ReadOnly,
            FolderAccess::ReadWrite => FsPerms::ReadWrite,
        };
        if let Err(error) = builder.preopened_dir(&folder.path, FOLDER, access) {
            let path = folder.path.display();
            tracing::warn!(%path, %error, "the folder that a plugin is granted cannot be opened");
        }
    }
    builder.build()
}

fn seed(granted: &EffectiveGrants, source: &HostSource) -> [u8; 32] {
    if let HostSource::Scripted(script) = source {
        return lock(script).seed;
    }
    let mut seed = [0; 32];
    if granted.random() == Random::Live
        && let Err(error) = getrandom::fill(&mut seed)
    {
        tracing::error!(%error, "the operating system has no randomness to give");
    }
    source.record(|| HostResponse::Random { seed: hex::encode(seed) });
    seed
}

fn nanos_of(clock: &Clock) -> u64 {
    u64::try_from(clock.now().micros()).unwrap_or_default().saturating_mul(1_000)
}

struct WallClock {
    source: HostSource,
    clock: Clock,
    frozen: Option<u64>,
}

impl HostWallClock for WallClock {
    fn resolution(&self) -> Duration {
        Duration::from_micros(1)
    }

    fn now(&self) -> Duration {
        let nanos = match &self.source {
            HostSource::Scripted(script) => lock(script).wall_nanos(),
            HostSource::Live(_) => {
                let nanos = self.frozen.unwrap_or_else(|| nanos_of(&self.clock));
                self.source.record(|| HostResponse::WallClock { nanos });
                nanos
            }
        };
        Duration::from_nanos(nanos)
    }
}

struct Monotonic {
    source: HostSource,
    begun: Instant,
    frozen: bool,
}

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        match &self.source {
            HostSource::Scripted(script) => lock(script).monotonic_nanos(),
            HostSource::Live(_) => {
                let passed = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let nanos = if self.frozen { 0 } else { passed };
                self.source.record(|| HostResponse::Monotonic { nanos });
                nanos
            }
        }
    }
}
