//! `wardgate usage`.

use super::api::{ForTenant, Target, text};
use super::print;
use crate::settings::Settings;

/// `wardgate usage`.
#[derive(Debug, clap::Args)]
pub(super) struct Usage {
    /// How many days to list, today (UTC) included.
    #[arg(long, default_value_t = 30)]
    days: u32,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

impl Usage {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let listed = api.get(&format!("/admin/tenants/{tenant}/usage?days={}", self.days)).await?;
        let rows = listed.as_array().into_iter().flatten().map(|row| {
            let [day, agent] = ["day", "agent_id"].map(|field| text(row, field));
            let [turns, tokens, cost, unpriced] =
                ["turns", "budget_tokens", "cost_micros", "unpriced_turns"]
                    .map(|field| row.get(field).and_then(serde_json::Value::as_u64).unwrap_or(0));
            let cost = match (cost, unpriced) {
                (0, 1..) => "unknown".to_owned(),
                (cost, 0) => money(cost),
                (cost, unpriced) => format!("{} and {unpriced} turns without a price", money(cost)),
            };
            format!("{day}\t{agent}\t{turns}\t{tokens}\t{cost}")
        });
        let header = "day\tagent\tturns\ttokens\tcost".to_owned();
        print(&std::iter::once(header).chain(rows).collect::<Vec<_>>().join("\n"))
    }
}

/// Millionths as a decimal number.
fn money(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_six_digits_behind_the_point() {
        assert_eq!(money(0), "0.000000");
        assert_eq!(money(1_050_007), "1.050007");
    }
}
