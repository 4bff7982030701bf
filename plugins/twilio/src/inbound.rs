//! Maps Twilio's requests to runs.

use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;
use wardgate_sdk::mapper::Mapped;

/// A message or speech of a user.
pub(crate) enum Inbound {
    /// A message to a number by SMS, MMS or WhatsApp.
    Message,
    /// A message in the conversation with this id, which may have many participants.
    Conversation(String),
    /// Speech or digits in the ongoing call with this id.
    Call(String),
}

fn at(host: &impl Host, name: &str) -> Option<String> {
    host.scalar(&format!("/{name}")).filter(|text| !text.is_empty())
}

impl Inbound {
    /// Reads the request. `None` if it needs no answer: the status of an outgoing message or call, an edited
    /// message, or a message of the agent.
    pub(crate) fn read(host: &impl Host) -> Option<Self> {
        let at = |name: &str| at(host, name);
        // Conversations send `EventType` values that start with `on`. WhatsApp status callbacks also have
        // this field, in capitals.
        if let Some(event) = at("EventType").filter(|event| event.starts_with("on")) {
            let is_said = event == "onMessageAdded" && !is_of_this_side(host);
            return at("ConversationSid").filter(|_| is_said).map(Self::Conversation);
        }
        if host.scalar("/Body").is_some() {
            // A number that writes to itself would get answers for ever.
            let (from, to) = (at("From"), at("To"));
            return (from.is_none() || from != to).then_some(Self::Message);
        }
        at("CallSid").map(Self::Call)
    }

    fn said(&self, host: &impl Host) -> Option<String> {
        let at = |name: &str| at(host, name);
        match self {
            Self::Message => at("Body").or_else(|| {
                let count = at("NumMedia").filter(|count| count != "0")?;
                Some(format!("A message without text, with {count} attachments."))
            }),
            Self::Conversation(_) => at("Body").or_else(|| {
                at("Media").filter(|media| media != "[]")?;
                Some(String::from("A message without text, with attachments."))
            }),
            Self::Call(_) => at("SpeechResult").or_else(|| at("Digits")),
        }
    }

    /// The thread's id. `None` if the sender or the recipient is unknown: two users would share a thread.
    fn thread(&self, host: &impl Host) -> Option<String> {
        match self {
            Self::Message => {
                let (to, from) = at(host, "To").zip(at(host, "From"))?;
                Some(format!("twilio:{to}:{from}"))
            }
            Self::Conversation(id) | Self::Call(id) => Some(format!("twilio:{id}")),
        }
    }

    fn user(&self, host: &impl Host) -> Option<String> {
        let is_called = at(host, "Direction").is_some_and(|way| way.starts_with("outbound"));
        match self {
            Self::Conversation(_) => at(host, "Author"),
            Self::Call(_) if is_called => at(host, "To"),
            Self::Message | Self::Call(_) => at(host, "From"),
        }
    }
}

/// Whether a conversation's message comes from this side: sent by the API, as the agent's answers are, or by
/// the system.
fn is_of_this_side(host: &impl Host) -> bool {
    at(host, "Source").is_some_and(|source| source.eq_ignore_ascii_case("API"))
        || at(host, "Author").as_deref() == Some("system")
}

pub(crate) fn map(host: &impl Host) -> Mapped {
    let Some((inbound, prompt)) =
        Inbound::read(host).and_then(|inbound| inbound.said(host).map(|said| (inbound, said)))
    else {
        return Mapped::ignore();
    };
    let mut mapped = Mapped::run().with_param("prompt", prompt);
    for (target, value) in [
        ("task_id", inbound.thread(host)),
        ("user_id", inbound.user(host)),
        ("user_first_name", at(host, "ProfileName")),
    ] {
        if let Some(value) = value {
            mapped = mapped.with_param(target, value);
        }
    }
    // The message's id is signed and the header is not, so the id takes precedence. A call has many turns
    // with one id, so only the header identifies a turn.
    mapped.delivery_id = match inbound {
        Inbound::Message | Inbound::Conversation(_) => at(host, "MessageSid"),
        Inbound::Call(_) => None,
    }
    .or_else(|| host.header("i-twilio-idempotency-token"));
    mapped
}
