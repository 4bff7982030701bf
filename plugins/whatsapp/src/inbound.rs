//! What a notification holds. Meta may put several messages into one, though for messages of users it
//! says that it seldom does; one notification is one run, so those of its first sender are taken
//! together, and of others the agent learns how many there were, but not what they said.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::Object;
use wardgate_sdk::mapper::Mapped;

/// "Updates are aggregated and sent in a batch with a maximum of 1000 updates": each costs some calls
/// to the host, so there is an end well before.
const LOOKED_AT_MAX: usize = 32;

/// The messages of one sender.
pub(crate) struct Inbound {
    pub(crate) phone_number_id: String,
    pub(crate) from: String,
    name: Option<String>,
    /// The provider's id of the first of them.
    id: Option<String>,
    texts: Vec<String>,
    messages: Vec<String>,
    others: usize,
}

impl Inbound {
    /// None where nobody said anything: statuses of messages that were sent from here, for instance.
    pub(crate) fn read(host: &impl Host) -> Option<Self> {
        let mut inbound: Option<Self> = None;
        for value in values(host) {
            for index in 0..LOOKED_AT_MAX {
                let message = format!("{value}/messages/{index}");
                let at = |pointer: &str| host.scalar(&format!("{message}{pointer}"));
                let Some(from) = at("/from") else { break };
                let Some(text) = said(at) else { continue };
                let taken = inbound.get_or_insert_with(|| Self {
                    phone_number_id: host
                        .scalar(&format!("{value}/metadata/phone_number_id"))
                        .unwrap_or_default(),
                    from: from.clone(),
                    name: host.scalar(&format!("{value}/contacts/0/profile/name")),
                    id: at("/id"),
                    texts: Vec::new(),
                    messages: Vec::new(),
                    others: 0,
                });
                if taken.from == from {
                    taken.texts.push(text);
                    taken.messages.extend(host.json(&message));
                } else {
                    taken.others += 1;
                }
            }
        }
        inbound
    }

    pub(crate) fn into_mapped(self) -> Mapped {
        let mut context = Object::new();
        context
            .string("phone_number_id", &self.phone_number_id)
            .string("from", &self.from)
            .maybe_string("name", self.name.as_deref())
            .raw("messages", &format!("[{}]", self.messages.join(",")));
        if self.others > 0 {
            context.raw("messages_of_others", &format!("{}", self.others));
        }
        let mut mapped = Mapped::run()
            .with_param("prompt", self.texts.join("\n"))
            .with_param("task_id", format!("whatsapp:{}:{}", self.phone_number_id, self.from))
            .with_param("user_id", self.from)
            .with_context(context.finish());
        if let Some(name) = self.name {
            mapped = mapped.with_param("user_first_name", name);
        }
        mapped.delivery_id = self.id;
        mapped
    }
}

/// Pointers at the `value` of each change that is about messages.
fn values(host: &impl Host) -> Vec<String> {
    let mut values = Vec::new();
    for entry in 0..LOOKED_AT_MAX {
        for change in 0..LOOKED_AT_MAX {
            let value = format!("/entry/{entry}/changes/{change}/value");
            if host.json(&value).is_none() {
                if change == 0 {
                    return values;
                }
                break;
            }
            if host.json(&format!("{value}/messages/0")).is_some() {
                values.push(value);
            }
        }
    }
    values
}

/// The words of a message, or none where it is nothing to answer.
fn said(at: impl Fn(&str) -> Option<String>) -> Option<String> {
    let kind = at("/type")?;
    match kind.as_str() {
        "text" => at("/text/body"),
        "button" => at("/button/text"),
        "interactive" => at("/interactive/button_reply/title")
            .or_else(|| at("/interactive/list_reply/title"))
            .or_else(|| Some(String::from("A form was filled in."))),
        // Somebody who changed their number, a heart under a message.
        "reaction" | "system" | "unsupported" | "ephemeral" => None,
        _ => at(&format!("/{kind}/caption"))
            .or_else(|| Some(format!("A message of type {kind}, without text."))),
    }
}
