//! The contents of an update: text, sender and conversation.
//!
//! One Telegram chat may hold many conversations. In a channel's direct messages, each topic belongs to
//! another user. A private chat of a business has the same id as the user's chat with the bot.

use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::Object;

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
const TELEGRAM: &str = "777000";

/// One update.
#[derive(Clone, Copy)]
pub(crate) struct Update {
    pub(crate) kind: &'static str,
}

impl Update {
    pub(crate) fn read(host: &impl Host) -> Option<Self> {
        // If the member is present, it has a chat or a sender.
        let kind = KINDS.into_iter().find(|kind| {
            ["/chat/id", "/from/id"]
                .into_iter()
                .any(|pointer| host.scalar(&format!("/{kind}{pointer}")).is_some())
        })?;
        Some(Self { kind })
    }

    pub(crate) fn at(self, host: &impl Host, pointer: &str) -> Option<String> {
        host.scalar(&format!("/{}{pointer}", self.kind)).filter(|text| !text.is_empty())
    }

    /// A member of the message. For a button, that is the message that the button is under.
    fn of_message(self, host: &impl Host, pointer: &str) -> Option<String> {
        match self.kind {
            "callback_query" => self.at(host, &format!("/message{pointer}")),
            _ => self.at(host, pointer),
        }
    }

    pub(crate) fn said(self, host: &impl Host) -> Option<String> {
        match self.kind {
            "callback_query" => self.at(host, "/data"),
            _ => self.at(host, "/text").or_else(|| self.at(host, "/caption")),
        }
    }

    /// The id of a button press. The button shows a spinner until it is answered.
    pub(crate) fn press(self, host: &impl Host) -> Option<String> {
        (self.kind == "callback_query").then(|| self.at(host, "/id")).flatten()
    }

    /// The parameters of the run that describe the sender, and their pointers in the update. All who write
    /// as a chat share one user id, so in that case the chat is the sender.
    pub(crate) fn sender(self, host: &impl Host) -> &'static [(&'static str, &'static str)] {
        match self.at(host, "/sender_chat/id") {
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
    pub(crate) fn is_of_this_side(self, host: &impl Host) -> bool {
        let from = self.at(host, "/from/id");
        let as_chat = self.at(host, "/sender_chat/id").is_some();
        let flag = |pointer: &str| self.at(host, pointer).as_deref() == Some("true");
        // A channel's post may be the bot's own, even if it was forwarded.
        if flag("/is_automatic_forward") || from.as_deref() == Some(TELEGRAM) {
            return true;
        }
        // Telegram flags senders who write as a chat (an anonymous administrator, a channel) as bots.
        if flag("/from/is_bot") && !as_chat {
            return true;
        }
        let is_not_by = |user: Option<String>| user.is_some() && from.is_some() && user != from;
        // The id of a private chat is the customer's; any other sender there is the business.
        if self.of_message(host, "/business_connection_id").is_some()
            && (self.at(host, "/sender_business_bot/id").is_some()
                || is_not_by(self.of_message(host, "/chat/id")))
        {
            return true;
        }
        // A topic belongs to one user; any other sender there is the channel.
        self.is_direct(host)
            && (as_chat || is_not_by(self.of_message(host, "/direct_messages_topic/user/id")))
    }

    fn is_direct(self, host: &impl Host) -> bool {
        self.of_message(host, "/chat/is_direct_messages").as_deref() == Some("true")
    }

    /// The conversation of the update. `None` if the update does not identify one: under an inline message,
    /// or if the topic or the business is missing.
    pub(crate) fn place(self, host: &impl Host) -> Option<Place> {
        // Ids are whole numbers and are sent back as such.
        let id =
            |pointer: &str| self.of_message(host, pointer).filter(|id| id.parse::<i64>().is_ok());
        let of_business = matches!(self.kind, "business_message" | "edited_business_message");
        let place = Place {
            chat: id("/chat/id")?,
            // In groups that are not forums, this member identifies replies, which are not topics.
            topic: id("/message_thread_id")
                .filter(|_| self.of_message(host, "/is_topic_message").as_deref() == Some("true")),
            direct: id("/direct_messages_topic/topic_id"),
            business: self.of_message(host, "/business_connection_id"),
        };
        let is_known = (place.direct.is_some() || !self.is_direct(host))
            && (place.business.is_some() || !of_business);
        is_known.then_some(place)
    }
}

/// One conversation.
pub(crate) struct Place {
    chat: String,
    /// A topic of a forum.
    topic: Option<String>,
    /// A topic of a channel's direct messages.
    direct: Option<String>,
    /// The connection to the business that the bot answers for.
    business: Option<String>,
}

impl Place {
    pub(crate) fn thread(&self) -> String {
        let mut thread = match &self.business {
            Some(business) => format!("telegram:business:{business}:{}", self.chat),
            None => format!("telegram:{}", self.chat),
        };
        if let Some(topic) = &self.direct {
            thread.push_str(&format!(":direct:{topic}"));
        }
        if let Some(topic) = &self.topic {
            thread.push_str(&format!(":{topic}"));
        }
        thread
    }

    /// Whether Telegram shows the typing indicator in this conversation.
    pub(crate) fn shows_typing(&self) -> bool {
        self.direct.is_none()
    }

    /// The members of a Bot API request that address this conversation.
    pub(crate) fn request(&self) -> Object {
        let mut object = Object::new();
        object
            .raw("chat_id", &self.chat)
            .maybe_raw("message_thread_id", self.topic.as_deref())
            .maybe_raw("direct_messages_topic_id", self.direct.as_deref())
            .maybe_string("business_connection_id", self.business.as_deref());
        object
    }
}
