//! Benchmarks of the gateway, against the same work without it, alternating within one run.
//!
//! `cargo xtask bench` runs them. Each prints a table and writes `target/bench/<name>.json`. Load generator and
//! servers share this process's cores: compare ratios, not absolute numbers.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod accept;
mod agent_turn;
mod bench_gateway;
mod compile_bomb;
mod languages;
mod load;
mod many;
mod mapping;
mod mcp_call;
mod neighbours;
mod polls;
mod shares;
mod task_cost;

use std::time::Duration;

fn main() -> anyhow::Result<()> {
    let (mut filter, mut seconds) = (None, 3);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--filter" => filter = arguments.next(),
            "--seconds" => {
                let value = arguments.next().and_then(|value| value.parse().ok());
                seconds = value.ok_or_else(|| anyhow::anyhow!("--seconds takes a number"))?;
            }
            // `cargo bench` passes this to every benchmark.
            "--bench" => {}
            other => anyhow::bail!("unknown argument {other}; there are --filter and --seconds"),
        }
    }
    let wanted = |part: &str| filter.as_deref().is_none_or(|filter| part.contains(filter));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let round = Duration::from_secs(seconds);
    println!("load average before: {}", bench_gateway::load_average());
    if wanted("mapping") {
        runtime.block_on(mapping::run(round))?;
    }
    if wanted("accept") {
        runtime.block_on(accept::run(round))?;
    }
    if wanted("task-cost") {
        runtime.block_on(task_cost::run(round))?;
    }
    if wanted("agent-turn") {
        runtime.block_on(agent_turn::run(round))?;
    }
    if wanted("mcp-call") {
        runtime.block_on(mcp_call::run(round))?;
    }
    if wanted("polls") {
        runtime.block_on(polls::run(round))?;
    }
    if wanted("languages") {
        runtime.block_on(languages::run(round))?;
    }
    if wanted("neighbours") {
        runtime.block_on(neighbours::run(round))?;
    }
    // A single attack, such as `shares/held fields`.
    let attack = filter.as_deref().and_then(|filter| filter.strip_prefix("shares/"));
    if wanted("shares") || attack.is_some() {
        runtime.block_on(shares::run(round, attack))?;
    }
    if wanted("compile-bomb") {
        runtime.block_on(compile_bomb::run())?;
    }
    if wanted("many") {
        runtime.block_on(many::run(round))?;
    }
    if wanted("ten-thousand") {
        runtime.block_on(many::ten_thousand())?;
    }
    println!("load average after: {}", bench_gateway::load_average());
    Ok(())
}
