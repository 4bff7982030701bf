//! `shares`: how long honest tenants wait beside tenants that use as much as they can get.
//!
//! One, two and eight hostile tenants run the same attack at once: calls of tools that sleep, over more connections
//! than there are slots for calls; long bodies, or many of middling length, to be accepted; calls of a tool that
//! makes the host hold `wasi:http` fields while it sleeps; lists of tasks with long results. Meanwhile, an honest
//! tenant has requests accepted, mapped, and verified at a hook, and another one lists its twenty tasks: one request
//! of each kind at a time, with a pause of five milliseconds after each response.
//!
//! Each attack has a gateway of its own, with the default settings, in this process. Quiet turns and attacks
//! alternate, and a turn's ratio is that of its p99 to the p99 of the quiet turn right before it. Responses other
//! than 200 are counted as refused, and their times are included. All share this machine's cores: the CPU time of the
//! hostile senders (one thread, prepared bytes) is in the honest tenants' figures. The honest tenants connect from
//! one loopback address, and each hostile tenant from its own.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod honest;
mod hostile;
mod sink;
mod testbed;
mod wire;

use std::time::Duration;

use serde_json::{Value, json};

use self::honest::Latencies;
use self::hostile::RequestCounts;
use self::testbed::Testbed;
use crate::bench_gateway::{load_average, median, write};

/// Turns for each number of hostile tenants, each with a quiet one before it.
const TURNS: usize = 3;

/// The address of the honest tenants. The hostile ones have the addresses after it.
const HONEST: [u8; 4] = [127, 0, 0, 2];

/// Numbers of hostile tenants.
const TENANTS: [usize; 3] = [1, 2, 8];

/// How long an attack runs before the measurement starts.
const LEAD: Duration = Duration::from_millis(500);

/// What hostile tenants do in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    SleepingTools,
    LongBodies,
    /// A control: the same bytes without the gateway. What it costs the honest tenants is due to the machine and not
    /// to the gateway.
    Sink,
    MiddlingBodies,
    HeldFields,
    LongLists,
}

impl Attack {
    const ALL: [Self; 6] = [
        Self::SleepingTools,
        Self::LongBodies,
        Self::Sink,
        Self::MiddlingBodies,
        Self::HeldFields,
        Self::LongLists,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::SleepingTools => "sleeping tools",
            Self::LongBodies => "9 MB bodies",
            Self::Sink => "9 MB to a sink",
            Self::MiddlingBodies => "87 KB bodies",
            Self::HeldFields => "held fields",
            Self::LongLists => "9 MB lists",
        }
    }
}

/// A quiet turn, the turn beside the attack that follows it, and the attack's figures.
struct Turn {
    quiet: Vec<Latencies>,
    beside: Vec<Latencies>,
    counts: RequestCounts,
}

/// Runs all attacks, or those whose names contain `filter`.
pub(crate) async fn run(round: Duration, filter: Option<&str>) -> anyhow::Result<()> {
    let time = round * 2 / 3;
    println!(
        "\nshares: ms that an honest tenant waits, {TURNS} turns of {time:?} quiet and as long beside the \
         attack; p99 and p50 are medians of turns; load average {}",
        load_average()
    );
    println!(
        "{:>15} {:>3} {:>8} {:>9} {:>9} {:>9} {:>9} {:>22} {:>8}",
        "attack",
        "by",
        "kind",
        "quiet p50",
        "quiet p99",
        "p50",
        "p99",
        "ratio of p99 min-med-max",
        "refused"
    );
    let mut figures = Vec::new();
    let wanted = |attack: &Attack| filter.is_none_or(|filter| attack.name().contains(filter));
    for attack in Attack::ALL.into_iter().filter(wanted) {
        let mut testbed = match Testbed::make(attack).await? {
            Ok(testbed) => testbed,
            Err(refused) => {
                println!("{:>15}: cannot be made: {refused}", attack.name());
                figures.push(json!({ "attack": attack.name(), "refused": refused }));
                continue;
            }
        };
        let mut turns: [Vec<Turn>; TENANTS.len()] = Default::default();
        for _ in 0..TURNS {
            for (tenants, turns) in TENANTS.into_iter().zip(&mut turns) {
                turns.push(turn(&testbed, attack, tenants, time).await?);
                if !testbed.wait_until_idle().await? {
                    // The rest of the attack would disturb the next quiet turn.
                    println!(
                        "{:>15} {tenants:>3}   is not worked off: a new gateway",
                        attack.name()
                    );
                    testbed.stop().await?;
                    let again = Testbed::make(attack).await?;
                    testbed = again.map_err(|refused| anyhow::anyhow!("{refused}"))?;
                }
            }
        }
        testbed.stop().await?;
        for (tenants, turns) in TENANTS.into_iter().zip(&turns) {
            figures.push(print_row(attack, tenants, turns));
        }
    }
    let figures = json!({
        "seconds_of_each_turn": time.as_secs_f64(), "load_average": load_average(), "rows": figures,
    });
    write("shares", &figures)
}

async fn turn(
    testbed: &Testbed,
    attack: Attack,
    tenants: usize,
    time: Duration,
) -> anyhow::Result<Turn> {
    let quiet = honest::wait(testbed.request_kinds(), time).await?;
    let hostile = hostile::begin(testbed.loads(attack, tenants))?;
    tokio::time::sleep(LEAD).await;
    let beside = honest::wait(testbed.request_kinds(), time).await?;
    let counts = hostile.end().await?;
    Ok(Turn { quiet, beside, counts })
}

/// Prints the figures for a number of hostile tenants, and returns them as JSON.
fn print_row(attack: Attack, tenants: usize, turns: &[Turn]) -> Value {
    let mut kinds = Vec::new();
    for (place, kind) in testbed::KINDS.into_iter().enumerate() {
        let of = |side: fn(&Turn) -> &Vec<Latencies>, part: fn(&Latencies) -> f64| -> Vec<f64> {
            turns.iter().filter_map(|turn| side(turn).get(place)).map(part).collect()
        };
        let quiet =
            [of(|turn| &turn.quiet, Latencies::p50), of(|turn| &turn.quiet, Latencies::p99)];
        let beside =
            [of(|turn| &turn.beside, Latencies::p50), of(|turn| &turn.beside, Latencies::p99)];
        let [_, quiet_p99] = &quiet;
        let [_, p99] = &beside;
        let mut ratios: Vec<f64> =
            p99.iter().zip(quiet_p99).map(|(p99, quiet)| p99 / quiet).collect();
        ratios.sort_by(f64::total_cmp);
        let ends = [ratios.first(), ratios.last()].map(|end| end.copied().unwrap_or_default());
        let of_beside = || turns.iter().filter_map(|turn| turn.beside.get(place));
        let refused: usize = of_beside().map(|latencies| latencies.refused).sum();
        let all: usize = of_beside().map(|latencies| latencies.times.len()).sum();
        let [min, max] = ends;
        let ratio = format!("{min:.2}-{:.2}-{max:.2}", median(&ratios));
        let [quiet_p50_ms, quiet_p99_ms] = quiet.each_ref().map(|values| median(values));
        let [p50_ms, p99_ms] = beside.each_ref().map(|values| median(values));
        println!(
            "{:>15} {tenants:>3} {kind:>8} {quiet_p50_ms:>9.2} {quiet_p99_ms:>9.2} {p50_ms:>9.2} {p99_ms:>9.2} \
             {ratio:>22} {:>8}",
            attack.name(),
            format!("{refused}/{all}"),
        );
        let [quiet_p50, quiet_p99] = quiet;
        let [p50, p99] = beside;
        kinds.push(json!({
            "kind": kind, "quiet_p50_ms": quiet_p50, "quiet_p99_ms": quiet_p99, "p50_ms": p50, "p99_ms": p99,
            "ratios_of_p99": ratios, "ratio_of_p99": median(&ratios), "refused": refused, "requests": all,
        }));
    }
    let counts: Vec<&RequestCounts> = turns.iter().map(|turn| &turn.counts).collect();
    let RequestCounts { begun, answered, refused } = counts.iter().copied().sum();
    println!(
        "{:>15} {tenants:>3}   of {begun} hostile requests {answered} were answered, {refused} refused",
        ""
    );
    json!({ "attack": attack.name(), "tenants": tenants, "kinds": kinds, "hostile": counts })
}
