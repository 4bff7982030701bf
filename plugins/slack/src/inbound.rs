//! Maps Slack's requests to runs.
//!
//! The agent does not see the raw payload: it holds a token, and URLs that let anyone post in the app's
//! name.

use crate::{EVENTS, RESPONSE_TYPE};
use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::{self, ObjectBuilder};
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::matches_any_pattern;
use wardgate_sdk::{DotPath, Failure, HttpReply};

/// The three forms of Slack's requests.
pub(crate) enum InboundRequest {
    /// JSON, from the Events API.
    Event,
    /// A form with `command`.
    Command,
    /// A form whose field `payload` holds this JSON, from buttons, menus, shortcuts and modals.
    Interaction(String),
}

impl InboundRequest {
    pub(crate) fn classify(host: &impl Host) -> Option<Self> {
        if host.scalar("/type").is_some() {
            Some(Self::Event)
        } else if host.scalar("/command").is_some() {
            Some(Self::Command)
        } else {
            host.scalar("/payload").map(Self::Interaction)
        }
    }
}

/// A non-empty string at this path of an interaction's JSON.
pub(crate) fn text_in_payload(payload: &str, path: &str) -> Option<String> {
    let found = DotPath::parse(path).ok()?.find_in(payload)?;
    json::decode_string(&found).filter(|text| !text.is_empty())
}

pub(crate) fn map_payload(host: &impl Host) -> Result<Mapped, Failure> {
    if host.scalar("/ssl_check").as_deref() == Some("1") {
        // Slack checks the TLS certificate of a slash command's URL.
        return Ok(Mapped::reply(HttpReply::new(200, "")));
    }
    let event_patterns = EVENTS.value(host)?;
    match InboundRequest::classify(host) {
        Some(InboundRequest::Event) => map_event(host, &event_patterns),
        Some(InboundRequest::Command) if matches_any_pattern(&event_patterns, "command") => {
            map_command(host)
        }
        Some(InboundRequest::Interaction(payload))
            if matches_any_pattern(&event_patterns, "interaction") =>
        {
            map_interaction(&payload)
        }
        Some(_) => Ok(Mapped::ignore()),
        None => Err(Failure::invalid_input("this is not one of the requests that Slack sends")),
    }
}

fn map_event(host: &impl Host, event_patterns: &str) -> Result<Mapped, Failure> {
    let text_at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
    match text_at("/type").as_deref() {
        Some("url_verification") => {
            let challenge = text_at("/challenge")
                .ok_or_else(|| Failure::invalid_input("the handshake has no challenge"))?;
            let reply = HttpReply::new(200, challenge).with_header("content-type", "text/plain");
            return Ok(Mapped::reply(reply));
        }
        Some("event_callback") => {}
        // `app_rate_limited`, and types that Slack may add.
        _ => return Ok(Mapped::ignore()),
    }
    let kind = text_at("/event/type").unwrap_or_default();
    let channel_type = text_at("/event/channel_type");
    let qualified_type = match (&*kind, &channel_type) {
        ("message", Some(channel_type)) => format!("message.{channel_type}"),
        _ => kind.clone(),
    };
    if !matches_any_pattern(event_patterns, &qualified_type)
        || is_from_bot(host)
        || !is_new_message(host)
    {
        return Ok(Mapped::ignore());
    }
    let is_message = kind == "message" || kind == "app_mention";
    let text = text_at("/event/text").unwrap_or_default();
    let text = unescape(strip_app_mention(&text, app_user_id(host).as_deref()));
    let prompt = match is_message {
        true if text.is_empty() => return Ok(Mapped::ignore()),
        true => text,
        false => format!("Slack event {kind}."),
    };
    let conversation = Conversation::from_event(host);
    let team = text_at("/team_id").or_else(|| text_at("/enterprise_id"));
    let mut mapped = Mapped::run().with_param("prompt", prompt);
    if let Some(thread) =
        conversation.as_ref().and_then(|conversation| conversation.thread_id(team.as_deref()))
    {
        mapped = mapped.with_param("task_id", thread);
    }
    let user = text_at("/event/user");
    if let Some(user) = &user {
        mapped = mapped.with_param("user_id", user);
    }
    mapped.delivery_id = text_at("/event_id");
    let mut context = ObjectBuilder::new();
    context
        .string("event", &qualified_type)
        .maybe_string("team", team.as_deref())
        .maybe_string("user", user.as_deref());
    if let Some(conversation) = &conversation {
        context.string("channel", &conversation.channel);
        context.maybe_string("thread_ts", conversation.thread.as_deref());
    }
    if !is_message {
        context.maybe_raw("details", host.json("/event").as_deref());
    }
    context.maybe_raw("files", host.json("/event/files").as_deref());
    Ok(mapped.with_context(context.finish()))
}

/// The bot user of the app, if the app is installed as one. Mentions of the app contain its id.
fn app_user_id(host: &impl Host) -> Option<String> {
    // An event comes with "at most one authorization".
    let is_bot = host.scalar("/authorizations/0/is_bot").as_deref() == Some("true");
    host.scalar("/authorizations/0/user_id").filter(|user| is_bot && !user.is_empty())
}

/// Whether a bot caused the event, this app included. Bots get no answers: two bots that answer each other
/// would never stop.
fn is_from_bot(host: &impl Host) -> bool {
    let is_present = |pointer: &str| host.json(pointer).is_some_and(|value| value != "null");
    let app_user = app_user_id(host);
    let is_app_user = |pointer: &str| app_user.is_some() && host.scalar(pointer) == app_user;
    is_present("/event/bot_id")
        || is_present("/event/bot_profile")
        || is_app_user("/event/user")
        // File events have this member instead.
        || is_app_user("/event/user_id")
}

/// Whether the event is a new message by a user. Edited and deleted messages, and those that Slack itself
/// writes ("joined the channel"), have other subtypes.
fn is_new_message(host: &impl Host) -> bool {
    matches!(
        host.scalar("/event/subtype").as_deref(),
        None | Some("file_share" | "thread_broadcast" | "me_message")
    )
}

/// The conversation of an event, which is also where the answer goes.
pub(crate) struct Conversation {
    pub(crate) channel: String,
    pub(crate) thread: Option<String>,
    /// The user who alone sees the conversation, if the channel does not.
    private_to: Option<String>,
}

impl Conversation {
    pub(crate) fn from_event(host: &impl Host) -> Option<Self> {
        let text_at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
        let channel = text_at("/event/channel").or_else(|| text_at("/event/item/channel"))?;
        // A direct conversation is one thread, except for Slack threads that users opened in it.
        let is_direct = text_at("/event/channel_type").as_deref() == Some("im");
        let thread = text_at("/event/thread_ts").or_else(|| {
            let own_ts = text_at("/event/ts").or_else(|| text_at("/event/item/ts"));
            own_ts.filter(|_| !is_direct)
        });
        Some(Self { channel, thread, private_to: None })
    }

    pub(crate) fn from_interaction(payload: &str) -> Option<Self> {
        let text_at = |path: &str| text_in_payload(payload, path);
        let channel = text_at("container.channel_id").or_else(|| text_at("channel.id"))?;
        let thread = text_at("container.thread_ts")
            .or_else(|| text_at("message.thread_ts"))
            .or_else(|| text_at("container.message_ts"))
            .or_else(|| text_at("message.ts"));
        // An interaction without a message is visible only to the user who opened it.
        let private_to = text_at("user.id").filter(|_| thread.is_none());
        Some(Self { channel, thread, private_to })
    }

    /// The conversation of a slash command. Only its user sees a command and, by default, its answer: the
    /// conversation is then with that user, not with the channel.
    fn from_command(host: &impl Host) -> Result<Option<Self>, Failure> {
        let text_at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
        let (channel, user) = (text_at("/channel_id"), text_at("/user_id"));
        let is_in_channel = RESPONSE_TYPE.value(host)? == "in_channel";
        Ok(match (channel, user) {
            (Some(channel), _) if is_in_channel => {
                Some(Self { channel, thread: None, private_to: None })
            }
            (Some(channel), Some(user)) => {
                Some(Self { channel, thread: None, private_to: Some(user) })
            }
            _ => None,
        })
    }

    /// The thread's id. `None` if the workspace is unknown: another one may have a channel with this id.
    fn thread_id(&self, team: Option<&str>) -> Option<String> {
        let mut thread = format!("slack:{}:{}", team?, self.channel);
        for part in [&self.thread, &self.private_to].into_iter().flatten() {
            thread.push(':');
            thread.push_str(part);
        }
        Some(thread)
    }
}

fn map_command(host: &impl Host) -> Result<Mapped, Failure> {
    let text_at = |name: &str| host.scalar(&format!("/{name}")).filter(|text| !text.is_empty());
    let team = text_at("team_id").or_else(|| text_at("enterprise_id"));
    let command = text_at("command").unwrap_or_default();
    let text = text_at("text").map(|text| unescape(text.trim())).filter(|text| !text.is_empty());
    let mut mapped = Mapped::run().with_param("prompt", text.unwrap_or_else(|| command.clone()));
    let conversation = Conversation::from_command(host)?;
    if let Some(thread) =
        conversation.and_then(|conversation| conversation.thread_id(team.as_deref()))
    {
        mapped = mapped.with_param("task_id", thread);
    }
    let user = text_at("user_id");
    if let Some(user) = &user {
        mapped = mapped.with_param("user_id", user);
    }
    // A user who repeats a command wants a second run; the trigger id then differs.
    mapped.delivery_id = text_at("trigger_id");
    Ok(mapped.with_context(
        ObjectBuilder::new()
            .string("command", &command)
            .maybe_string("team", team.as_deref())
            .maybe_string("user", user.as_deref())
            .maybe_string("user_name", text_at("user_name").as_deref())
            .maybe_string("channel", text_at("channel_id").as_deref())
            .maybe_string("channel_name", text_at("channel_name").as_deref())
            .finish(),
    ))
}

fn map_interaction(payload: &str) -> Result<Mapped, Failure> {
    let text_at = |path: &str| text_in_payload(payload, path);
    let kind = text_at("type")
        .ok_or_else(|| Failure::invalid_input("the interaction's payload has no type"))?;
    if matches!(kind.as_str(), "view_closed" | "block_suggestion") {
        return Ok(Mapped::ignore());
    }
    let action = text_at("actions.0.action_id")
        .or_else(|| text_at("callback_id"))
        .or_else(|| text_at("view.callback_id"));
    let value = text_at("actions.0.value")
        .or_else(|| text_at("actions.0.selected_option.value"))
        .or_else(|| text_at("message.text").filter(|_| kind == "message_action"));
    let team =
        text_at("team.id").or_else(|| text_at("user.team_id")).or_else(|| text_at("enterprise.id"));
    let prompt = match (&value, &action) {
        (Some(text), _) => unescape(text.trim()),
        (None, Some(action)) => format!("Slack {kind}: {action}."),
        (None, None) => format!("Slack {kind}."),
    };
    let mut mapped = Mapped::run().with_param("prompt", prompt);
    let conversation = Conversation::from_interaction(payload);
    if let Some(thread) =
        conversation.as_ref().and_then(|conversation| conversation.thread_id(team.as_deref()))
    {
        mapped = mapped.with_param("task_id", thread);
    }
    if let Some(user) = text_at("user.id") {
        mapped = mapped.with_param("user_id", user);
    }
    mapped.delivery_id = text_at("trigger_id");
    let values = DotPath::parse("view.state.values").ok().and_then(|path| path.find_in(payload));
    Ok(mapped.with_context(
        ObjectBuilder::new()
            .string("interaction", &kind)
            .maybe_string("action", action.as_deref())
            .maybe_string("value", value.as_deref())
            .maybe_string("team", team.as_deref())
            .maybe_string("user", text_at("user.id").as_deref())
            .maybe_string(
                "channel",
                conversation.as_ref().map(|conversation| conversation.channel.as_str()),
            )
            .maybe_raw("values", values.as_deref())
            .finish(),
    ))
}

/// The text without a leading mention of the app. Mentions of other users stay part of the text.
fn strip_app_mention<'t>(text: &'t str, app_user: Option<&str>) -> &'t str {
    let text = text.trim();
    let after_mention = || {
        let (mention, rest) = text.strip_prefix("<@")?.split_once('>')?;
        // A name may follow the id: `<@U0LAN0Z89|helper>`.
        let user = mention.split('|').next()?;
        (Some(user) == app_user).then(|| rest.trim_start())
    };
    after_mention().unwrap_or(text)
}

/// Unescapes the three characters that Slack escapes ("Formatting message text").
fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
