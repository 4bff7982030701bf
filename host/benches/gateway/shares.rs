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
mod site;
mod wire;

use std::time::Duration;

use serde_json::{Value, json};

use self::honest::Waited;
use self::hostile::Did;
use self::site::Site;
use crate::bed::{load_average, median, write};

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
    quiet: Vec<Waited>,
    beside: Vec<Waited>,
    did: Did,
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
        let mut site = match Site::make(attack).await? {
            Ok(site) => site,
            Err(refused) => {
                println!("{:>15}: cannot be made: {refused}", attack.name());
                figures.push(json!({ "attack": attack.name(), "refused": refused }));
                continue;
            }
        };
        let mut turns: [Vec<Turn>; TENANTS.len()] = Default::default();
        for _ in 0..TURNS {
            for (tenants, turns) in TENANTS.into_iter().zip(&mut turns) {
                turns.push(turn(&site, attack, tenants, time).await?);
                if !site.settle().await? {
                    // The rest of the attack would disturb the next quiet turn.
                    println!(
                        "{:>15} {tenants:>3}   is not worked off: a new gateway",
                        attack.name()
                    );
                    site.stop().await?;
                    let again = Site::make(attack).await?;
                    site = again.map_err(|refused| anyhow::anyhow!("{refused}"))?;
                }
            }
        }
        site.stop().await?;
        for (tenants, turns) in TENANTS.into_iter().zip(&turns) {
            figures.push(told(attack, tenants, turns));
        }
    }
    let figures = json!({
        "seconds_of_each_turn": time.as_secs_f64(), "load_average": load_average(), "rows": figures,
    });
    write("shares", &figures)
}

async fn turn(site: &Site, attack: Attack, tenants: usize, time: Duration) -> anyhow::Result<Turn> {
    let quiet = honest::wait(site.doors(), time).await?;
    let hostile = hostile::begin(site.loads(attack, tenants))?;
    tokio::time::sleep(LEAD).await;
    let beside = honest::wait(site.doors(), time).await?;
    let did = hostile.end().await?;
    Ok(Turn { quiet, beside, did })
}

/// Prints the figures for a number of hostile tenants, and returns them as JSON.
fn told(attack: Attack, tenants: usize, turns: &[Turn]) -> Value {
    let mut kinds = Vec::new();
    for (place, kind) in site::KINDS.into_iter().enumerate() {
        let of = |side: fn(&Turn) -> &Vec<Waited>, part: fn(&Waited) -> f64| -> Vec<f64> {
            turns.iter().filter_map(|turn| side(turn).get(place)).map(part).collect()
        };
        let quiet = [of(|turn| &turn.quiet, Waited::p50), of(|turn| &turn.quiet, Waited::p99)];
        let beside = [of(|turn| &turn.beside, Waited::p50), of(|turn| &turn.beside, Waited::p99)];
        let [_, quiet_p99] = &quiet;
        let [_, p99] = &beside;
        let mut ratios: Vec<f64> =
            p99.iter().zip(quiet_p99).map(|(p99, quiet)| p99 / quiet).collect();
        ratios.sort_by(f64::total_cmp);
        let ends = [ratios.first(), ratios.last()].map(|end| end.copied().unwrap_or_default());
        let of_beside = || turns.iter().filter_map(|turn| turn.beside.get(place));
        let refused: usize = of_beside().map(|waited| waited.refused).sum();
        let all: usize = of_beside().map(|waited| waited.times.len()).sum();
        let [least, most] = ends;
        let ratio = format!("{least:.2}-{:.2}-{most:.2}", median(&ratios));
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
    let did: Vec<&Did> = turns.iter().map(|turn| &turn.did).collect();
    let Did { begun, answered, refused } = did.iter().copied().sum();
    println!(
        "{:>15} {tenants:>3}   of {begun} hostile requests {answered} were answered, {refused} refused",
        ""
    );
    json!({ "attack": attack.name(), "tenants": tenants, "kinds": kinds, "hostile": did })
}
