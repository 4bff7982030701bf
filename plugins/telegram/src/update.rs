//! The contents of an update: text, sender and conversation.
//!
//! One Telegram chat may hold many conversations. In a channel's direct messages, each topic belongs to
//! another user. A private chat of a business has the same id as the user's chat with the bot.

use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::ObjectBuilder;

/// The kinds of updates that can have a text. Each is a member of the update.
const KINDS: [&str; 7] = [
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "business_message",
    "edited_business_message",
    "callback_query",
];

/// The user id of Telegram itself, which copies a channel's posts into its discussion group.
const TELEGRAM_USER_ID: &str = "777000";

/// One update.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    pub(crate) kind: &'static str,
}

impl Update {
    pub(crate) fn from_request(host: &impl Host) -> Option<Self> {
        // If the member is present, it has a chat or a sender.
        let kind = KINDS.into_iter().find(|kind| {
            ["/chat/id", "/from/id"]
                .into_iter()
                .any(|pointer| host.scalar(&format!("/{kind}{pointer}")).is_some())
        })?;
        Some(Self { kind })
    }

    pub(crate) fn text_at(self, host: &impl Host, pointer: &str) -> Option<String> {
        host.scalar(&format!("/{}{pointer}", self.kind)).filter(|text| !text.is_empty())
    }

    /// A member of the message. For a button, that is the message that the button is under.
    fn message_text_at(self, host: &impl Host, pointer: &str) -> Option<String> {
        match self.kind {
            "callback_query" => self.text_at(host, &format!("/message{pointer}")),
            _ => self.text_at(host, pointer),
        }
    }

    pub(crate) fn text(self, host: &impl Host) -> Option<String> {
        match self.kind {
            "callback_query" => self.text_at(host, "/data"),
            _ => self.text_at(host, "/text").or_else(|| self.text_at(host, "/caption")),
        }
    }

    /// The id of a button press. The button shows a spinner until it is answered.
    pub(crate) fn callback_query_id(self, host: &impl Host) -> Option<String> {
        (self.kind == "callback_query").then(|| self.text_at(host, "/id")).flatten()
    }

    /// The parameters of the run that describe the sender, and their pointers in the update. All who write
    /// as a chat share one user id, so in that case the chat is the sender.
    pub(crate) fn sender_params(self, host: &impl Host) -> &'static [(&'static str, &'static str)] {
        match self.text_at(host, "/sender_chat/id") {
            Some(_) => &[("user_id", "/sender_chat/id"), ("user_first_name", "/sender_chat/title")],
            None => &[
                ("user_id", "/from/id"),
                ("user_first_name", "/from/first_name"),
                ("user_last_name", "/from/last_name"),
            ],
        }
    }

    /// Whether the message needs no answer because this bot, another bot, or the party that the bot answers
    /// for wrote it. Two bots that answer each other would never stop.
    pub(crate) fn needs_no_answer(self, host: &impl Host) -> bool {
        let sender_id = self.text_at(host, "/from/id");
        let is_sent_as_chat = self.text_at(host, "/sender_chat/id").is_some();
        let is_true = |pointer: &str| self.text_at(host, pointer).as_deref() == Some("true");
        // A channel's post may be the bot's own, even if it was forwarded.
        if is_true("/is_automatic_forward") || sender_id.as_deref() == Some(TELEGRAM_USER_ID) {
            return true;
        }
        // Telegram flags senders who write as a chat (an anonymous administrator, a channel) as bots.
        if is_true("/from/is_bot") && !is_sent_as_chat {
            return true;
        }
        let is_not_sender =
            |user: Option<String>| user.is_some() && sender_id.is_some() && user != sender_id;
        // The id of a private chat is the customer's; any other sender there is the business.
        if self.message_text_at(host, "/business_connection_id").is_some()
            && (self.text_at(host, "/sender_business_bot/id").is_some()
                || is_not_sender(self.message_text_at(host, "/chat/id")))
        {
            return true;
        }
        // A topic belongs to one user; any other sender there is the channel.
        self.is_channel_direct_message(host)
            && (is_sent_as_chat
                || is_not_sender(self.message_text_at(host, "/direct_messages_topic/user/id")))
    }

    fn is_channel_direct_message(self, host: &impl Host) -> bool {
        self.message_text_at(host, "/chat/is_direct_messages").as_deref() == Some("true")
    }

    /// The conversation of the update. `None` if the update does not identify one: under an inline message,
    /// or if the topic or the business is missing.
    pub(crate) fn conversation(self, host: &impl Host) -> Option<Conversation> {
        // Ids are whole numbers and are sent back as such.
        let id = |pointer: &str| {
            self.message_text_at(host, pointer).filter(|id| id.parse::<i64>().is_ok())
        };
        let is_business = matches!(self.kind, "business_message" | "edited_business_message");
        let conversation = Conversation {
            chat_id: id("/chat/id")?,
            // In groups that are not forums, this member identifies replies, which are not topics.
            topic_id: id("/message_thread_id").filter(|_| {
                self.message_text_at(host, "/is_topic_message").as_deref() == Some("true")
            }),
            direct_topic_id: id("/direct_messages_topic/topic_id"),
            business_connection_id: self.message_text_at(host, "/business_connection_id"),
        };
        let is_known = (conversation.direct_topic_id.is_some()
            || !self.is_channel_direct_message(host))
            && (conversation.business_connection_id.is_some() || !is_business);
        is_known.then_some(conversation)
    }
}

/// One conversation.
pub(crate) struct Conversation {
    chat_id: String,
    /// A topic of a forum.
    topic_id: Option<String>,
    /// A topic of a channel's direct messages.
    direct_topic_id: Option<String>,
    /// The connection to the business that the bot answers for.
    business_connection_id: Option<String>,
}

impl Conversation {
    pub(crate) fn thread_id(&self) -> String {
        let mut thread = match &self.business_connection_id {
            Some(business) => format!("telegram:business:{business}:{}", self.chat_id),
            None => format!("telegram:{}", self.chat_id),
        };
        if let Some(topic) = &self.direct_topic_id {
            thread.push_str(&format!(":direct:{topic}"));
        }
        if let Some(topic) = &self.topic_id {
            thread.push_str(&format!(":{topic}"));
        }
        thread
    }

    /// Whether Telegram shows the typing indicator in this conversation.
    pub(crate) fn shows_typing(&self) -> bool {
        self.direct_topic_id.is_none()
    }

    /// The members of a Bot API request that address this conversation.
    pub(crate) fn address(&self) -> ObjectBuilder {
        let mut object = ObjectBuilder::new();
        object
            .raw("chat_id", &self.chat_id)
            .maybe_raw("message_thread_id", self.topic_id.as_deref())
            .maybe_raw("direct_messages_topic_id", self.direct_topic_id.as_deref())
            .maybe_string("business_connection_id", self.business_connection_id.as_deref());
        object
    }
}
