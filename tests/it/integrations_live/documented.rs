//! The gateway accepts the channel and grants files that docs/INTEGRATIONS.md shows.

use std::collections::BTreeSet;

use wardgate::sandbox::Grants;

use super::{LIMITS, documented_blocks, is_grants};
use crate::support::Gateway;

/// The string value of a key in a channel file.
fn text_of<'b>(block: &'b str, key: &str) -> &'b str {
    let mut lines = block.lines().filter_map(|line| line.strip_prefix(key));
    let value = lines.find_map(|rest| rest.strip_prefix(" = \"")).unwrap();
    value.split('"').next().unwrap()
}

#[tokio::test]
async fn every_file_that_the_documentation_shows_is_accepted() {
    let gateway = Gateway::start().await;
    let (mut channels, mut grants, mut agents) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (integration, block) in documented_blocks() {
        if is_grants(&block) {
            let parsed = Grants::parse(&block);
            let parsed = parsed.unwrap_or_else(|error| panic!("{integration}: {error}"));
            let names_a_credential = parsed.secret_names().next().is_some();
            assert_eq!(names_a_credential, integration != "zapier-form", "{integration}");
            grants.push(integration);
            continue;
        }
        let agent = text_of(&block, "agent");
        if agents.insert(agent.to_owned()) {
            gateway.agent_with(|definition| definition.name = agent.parse().unwrap()).await;
        }
        gateway.write_grants(&integration, LIMITS);
        let admin_path = format!("/channels/{}", text_of(&block, "name"));
        let call =
            gateway.admin_request("PUT", &admin_path).text("application/toml", block.clone());
        let definition = call.expect(200).await.json()["definition"].clone();
        assert_eq!(definition["verifier"], integration);
        assert_eq!(definition["mapper"], integration);
        channels.push(integration);
    }
    channels.sort_unstable();
    channels.dedup();
    grants.sort_unstable();
    let all = [
        "cloudevents", "github", "hmac", "shopify", "slack", "standard-webhooks", "stripe",
        "telegram", "twilio", "whatsapp", "zapier-form",
    ];
    assert_eq!(channels, all);
    assert_eq!(grants, ["slack", "telegram", "twilio", "whatsapp", "zapier-form"]);
}
