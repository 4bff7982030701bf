//! Maps Twilio's requests to runs.

use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;
use wardgate_sdk::mapper::Mapped;

/// A message or speech of a user.
pub(crate) enum InboundRequest {
    /// A message to a number by SMS, MMS or WhatsApp.
    Message,
    /// A message in the conversation with this id, which may have many participants.
    Conversation(String),
    /// Speech or digits in the ongoing call with this id.
    Call(String),
}

fn field(host: &impl Host, name: &str) -> Option<String> {
    host.scalar(&format!("/{name}")).filter(|text| !text.is_empty())
}

impl InboundRequest {
    /// Reads the request. `None` if it needs no answer: the status of an outgoing message or call, an edited
    /// message, or a message of the agent.
    pub(crate) fn from_request(host: &impl Host) -> Option<Self> {
        let field = |name: &str| field(host, name);
        // Conversations send `EventType` values that start with `on`. WhatsApp status callbacks also have
        // this field, in capitals.
        if let Some(event) = field("EventType").filter(|event| event.starts_with("on")) {
            let is_user_message = event == "onMessageAdded" && !is_from_agent_or_system(host);
            return field("ConversationSid").filter(|_| is_user_message).map(Self::Conversation);
        }
        if host.scalar("/Body").is_some() {
            // A number that writes to itself would get answers for ever.
            let (from, to) = (field("From"), field("To"));
            return (from.is_none() || from != to).then_some(Self::Message);
        }
        field("CallSid").map(Self::Call)
    }

    fn text(&self, host: &impl Host) -> Option<String> {
        let field = |name: &str| field(host, name);
        match self {
            Self::Message => field("Body").or_else(|| {
                let count = field("NumMedia").filter(|count| count != "0")?;
                Some(format!("A message without text, with {count} attachments."))
            }),
            Self::Conversation(_) => field("Body").or_else(|| {
                field("Media").filter(|media| media != "[]")?;
                Some(String::from("A message without text, with attachments."))
            }),
            Self::Call(_) => field("SpeechResult").or_else(|| field("Digits")),
        }
    }

    /// The thread's id. `None` if the sender or the recipient is unknown: two users would share a thread.
    fn thread_id(&self, host: &impl Host) -> Option<String> {
        match self {
            Self::Message => {
                let (to, from) = field(host, "To").zip(field(host, "From"))?;
                Some(format!("twilio:{to}:{from}"))
            }
            Self::Conversation(id) | Self::Call(id) => Some(format!("twilio:{id}")),
        }
    }

    fn user_id(&self, host: &impl Host) -> Option<String> {
        let is_outbound_call =
            field(host, "Direction").is_some_and(|direction| direction.starts_with("outbound"));
        match self {
            Self::Conversation(_) => field(host, "Author"),
            Self::Call(_) if is_outbound_call => field(host, "To"),
            Self::Message | Self::Call(_) => field(host, "From"),
        }
    }
}

/// Whether a conversation's message comes from this side: sent by the API, as the agent's answers are, or by
/// the system.
fn is_from_agent_or_system(host: &impl Host) -> bool {
    field(host, "Source").is_some_and(|source| source.eq_ignore_ascii_case("API"))
        || field(host, "Author").as_deref() == Some("system")
}

pub(crate) fn map_payload(host: &impl Host) -> Mapped {
    let Some((inbound, prompt)) = InboundRequest::from_request(host)
        .and_then(|inbound| inbound.text(host).map(|text| (inbound, text)))
    else {
        return Mapped::ignore();
    };
    let mut mapped = Mapped::run().with_param("prompt", prompt);
    for (target, value) in [
        ("task_id", inbound.thread_id(host)),
        ("user_id", inbound.user_id(host)),
        ("user_first_name", field(host, "ProfileName")),
    ] {
        if let Some(value) = value {
            mapped = mapped.with_param(target, value);
        }
    }
    // The message's id is signed and the header is not, so the id takes precedence. A call has many turns
    // with one id, so only the header identifies a turn.
    mapped.delivery_id = match inbound {
        InboundRequest::Message | InboundRequest::Conversation(_) => field(host, "MessageSid"),
        InboundRequest::Call(_) => None,
    }
    .or_else(|| host.header("i-twilio-idempotency-token"));
    mapped
}
