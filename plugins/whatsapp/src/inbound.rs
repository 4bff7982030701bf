//! Maps a notification to a run.
//!
//! Meta may batch several messages into one notification, though it says that this is rare for user
//! messages. One notification is one run: the messages of its first sender are joined. Of messages by other
//! senders, the agent sees the number but not the text.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::ObjectBuilder;
use wardgate_sdk::mapper::Mapped;

/// How many entries of each list are read. "Updates are aggregated and sent in a batch with a maximum of
/// 1000 updates": each costs some host calls, so the bound is well below that.
const LIST_ENTRIES_MAX: usize = 32;

/// The sender of a message, the business number that it was sent to, and its group.
pub(crate) struct Sender {
    pub(crate) phone_number_id: String,
    /// The sender's phone number. Users with a user name may hide it from the business.
    from: Option<String>,
    /// The sender's id, which is specific to this business.
    user_id: Option<String>,
    group: Option<String>,
}

impl Sender {
    fn from_message(host: &impl Host, value: &str, message: &str) -> Option<Self> {
        let text_at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
        let message_text = |name: &str| text_at(&format!("{message}/{name}"));
        let (from, user_id) = (message_text("from"), message_text("from_user_id"));
        if from.is_none() && user_id.is_none() {
            return None;
        }
        let phone_number_id =
            text_at(&format!("{value}/metadata/phone_number_id")).unwrap_or_default();
        Some(Self { phone_number_id, from, user_id, group: message_text("group_id") })
    }

    /// The phone number, else the user id.
    fn id(&self) -> &str {
        self.from.as_deref().or(self.user_id.as_deref()).unwrap_or_default()
    }

    /// Whether both messages are in one conversation and by the same user.
    fn is_same_conversation(&self, other: &Self) -> bool {
        self.phone_number_id == other.phone_number_id
            && self.id() == other.id()
            && self.group == other.group
    }

    /// The thread's id. `None` if the business number that received the message is unknown.
    fn thread_id(&self) -> Option<String> {
        let number = Some(&self.phone_number_id).filter(|number| !number.is_empty())?;
        Some(match &self.group {
            Some(group) => format!("whatsapp:{number}:group:{group}"),
            None => format!("whatsapp:{number}:{}", self.id()),
        })
    }

    /// The sender's name in the contacts beside the message. A single contact is the sender, even if the
    /// number is formatted differently there.
    fn name(&self, host: &impl Host, value: &str) -> Option<String> {
        let contact = |index: usize, pointer: &str| {
            host.scalar(&format!("{value}/contacts/{index}/{pointer}"))
        };
        let is_sender = |index: &usize| {
            (self.from.is_some() && contact(*index, "wa_id") == self.from)
                || (self.user_id.is_some() && contact(*index, "user_id") == self.user_id)
        };
        let single_contact = || host.json(&format!("{value}/contacts/1")).is_none().then_some(0);
        let index = (0..LIST_ENTRIES_MAX).find(is_sender).or_else(single_contact)?;
        contact(index, "profile/name")
    }

    /// The members of a request that address its recipient.
    pub(crate) fn recipient_params(&self) -> ObjectBuilder {
        let mut object = ObjectBuilder::new();
        object.string("messaging_product", "whatsapp");
        match (&self.group, &self.from) {
            (Some(group), _) => object.string("recipient_type", "group").string("to", group),
            (None, Some(from)) => object.string("recipient_type", "individual").string("to", from),
            // In `to`, Meta would silently take the part behind the country code for a phone number.
            (None, None) => {
                object.string("recipient_type", "individual").string("recipient", self.id())
            }
        };
        object
    }
}

/// The messages of one sender.
pub(crate) struct InboundMessages {
    pub(crate) sender: Sender,
    name: Option<String>,
    /// Meta's id of the first message.
    id: Option<String>,
    texts: Vec<String>,
    messages: Vec<String>,
    other_sender_messages: usize,
}

impl InboundMessages {
    /// Reads the messages. `None` if there are none, as in the status of an outgoing message.
    pub(crate) fn from_request(host: &impl Host) -> Option<Self> {
        let mut inbound: Option<Self> = None;
        for value in message_changes(host) {
            for index in 0..LIST_ENTRIES_MAX {
                let message = format!("{value}/messages/{index}");
                let Some(json) = host.json(&message) else { break };
                let text_at = |pointer: &str| host.scalar(&format!("{message}{pointer}"));
                // A message that cannot be read does not stop the ones after it.
                let Some((sender, text)) =
                    Sender::from_message(host, &value, &message).zip(message_prompt(text_at))
                else {
                    continue;
                };
                let Some(first) = &mut inbound else {
                    inbound = Some(Self {
                        name: sender.name(host, &value),
                        sender,
                        id: text_at("/id"),
                        texts: Vec::from([text]),
                        messages: Vec::from([json]),
                        other_sender_messages: 0,
                    });
                    continue;
                };
                if first.sender.is_same_conversation(&sender) {
                    first.texts.push(text);
                    first.messages.push(json);
                } else {
                    first.other_sender_messages += 1;
                }
            }
        }
        inbound
    }

    pub(crate) fn into_mapped(self) -> Mapped {
        let sender = &self.sender;
        let mut context = ObjectBuilder::new();
        context
            .string("phone_number_id", &sender.phone_number_id)
            .maybe_string("from", sender.from.as_deref())
            .maybe_string("from_user_id", sender.user_id.as_deref())
            .maybe_string("group_id", sender.group.as_deref())
            .maybe_string("name", self.name.as_deref())
            .raw("messages", &format!("[{}]", self.messages.join(",")));
        if self.other_sender_messages > 0 {
            context.raw("messages_of_others", &format!("{}", self.other_sender_messages));
        }
        let mut mapped = Mapped::run()
            .with_param("prompt", self.texts.join("\n"))
            .with_param("user_id", sender.id())
            .with_context(context.finish());
        if let Some(thread) = sender.thread_id() {
            mapped = mapped.with_param("task_id", thread);
        }
        if let Some(name) = self.name {
            mapped = mapped.with_param("user_first_name", name);
        }
        mapped.delivery_id = self.id;
        mapped
    }
}

/// Pointers to the `value` of each change that holds messages.
fn message_changes(host: &impl Host) -> Vec<String> {
    let mut values = Vec::new();
    for entry in 0..LIST_ENTRIES_MAX {
        for change in 0..LIST_ENTRIES_MAX {
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

/// The text of a message. `None` if the message needs no answer.
fn message_prompt(text_at: impl Fn(&str) -> Option<String>) -> Option<String> {
    let kind = text_at("/type")?;
    match kind.as_str() {
        "text" => text_at("/text/body"),
        "button" => text_at("/button/text"),
        "interactive" => text_at("/interactive/button_reply/title")
            .or_else(|| text_at("/interactive/list_reply/title"))
            .or_else(|| Some(String::from("A form was filled in."))),
        // For example a change of phone number, or a heart under a message.
        "reaction" | "system" | "unsupported" | "ephemeral" => None,
        _ => text_at(&format!("/{kind}/caption"))
            .or_else(|| Some(format!("A message of type {kind}, without text."))),
    }
}
