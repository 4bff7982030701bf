//! Maps Slack's requests to runs.
//!
//! The agent does not see the raw payload: it holds a token, and URLs that let anyone post in the app's
//! name.

use crate::{EVENTS, RESPONSE_TYPE};
use alloc::format;
use alloc::string::String;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::{self, Object};
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::listed;
use wardgate_sdk::{DotPath, Failure, HttpReply};

/// The three forms of Slack's requests.
pub(crate) enum Inbound {
    /// JSON, from the Events API.
    Event,
    /// A form with `command`.
    Command,
    /// A form whose field `payload` holds this JSON, from buttons, menus, shortcuts and modals.
    Interaction(String),
}

impl Inbound {
    pub(crate) fn read(host: &impl Host) -> Option<Self> {
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
pub(crate) fn within(payload: &str, path: &str) -> Option<String> {
    let found = DotPath::parse(path).ok()?.find_in(payload)?;
    json::text(&found).filter(|text| !text.is_empty())
}

pub(crate) fn map(host: &impl Host) -> Result<Mapped, Failure> {
    if host.scalar("/ssl_check").as_deref() == Some("1") {
        // Slack checks the TLS certificate of a slash command's URL.
        return Ok(Mapped::reply(HttpReply::new(200, "")));
    }
    let wanted = EVENTS.read(host)?;
    match Inbound::read(host) {
        Some(Inbound::Event) => event(host, &wanted),
        Some(Inbound::Command) if listed(&wanted, "command") => command(host),
        Some(Inbound::Interaction(payload)) if listed(&wanted, "interaction") => {
            interaction(&payload)
        }
        Some(_) => Ok(Mapped::ignore()),
        None => Err(Failure::invalid_input("this is not one of the requests that Slack sends")),
    }
}

fn event(host: &impl Host, wanted: &str) -> Result<Mapped, Failure> {
    let at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
    match at("/type").as_deref() {
        Some("url_verification") => {
            let challenge = at("/challenge")
                .ok_or_else(|| Failure::invalid_input("the handshake has no challenge"))?;
            let reply = HttpReply::new(200, challenge).with_header("content-type", "text/plain");
            return Ok(Mapped::reply(reply));
        }
        Some("event_callback") => {}
        // `app_rate_limited`, and types that Slack may add.
        _ => return Ok(Mapped::ignore()),
    }
    let kind = at("/event/type").unwrap_or_default();
    let channel_type = at("/event/channel_type");
    let full = match (&*kind, &channel_type) {
        ("message", Some(channel_type)) => format!("message.{channel_type}"),
        _ => kind.clone(),
    };
    if !listed(wanted, &full) || from_a_bot(host) || !says_something_new(host) {
        return Ok(Mapped::ignore());
    }
    let talks = kind == "message" || kind == "app_mention";
    let text = at("/event/text").unwrap_or_default();
    let text = unescaped(without_mention(&text, app(host).as_deref()));
    let prompt = match talks {
        true if text.is_empty() => return Ok(Mapped::ignore()),
        true => text,
        false => format!("Slack event {kind}."),
    };
    let place = Place::of_event(host);
    let team = at("/team_id").or_else(|| at("/enterprise_id"));
    let mut mapped = Mapped::run().with_param("prompt", prompt);
    if let Some(thread) = place.as_ref().and_then(|place| place.thread_id(team.as_deref())) {
        mapped = mapped.with_param("task_id", thread);
    }
    let user = at("/event/user");
    if let Some(user) = &user {
        mapped = mapped.with_param("user_id", user);
    }
    mapped.delivery_id = at("/event_id");
    let mut context = Object::new();
    context
        .string("event", &full)
        .maybe_string("team", team.as_deref())
        .maybe_string("user", user.as_deref());
    if let Some(place) = &place {
        context.string("channel", &place.channel);
        context.maybe_string("thread_ts", place.thread.as_deref());
    }
    if !talks {
        context.maybe_raw("details", host.json("/event").as_deref());
    }
    context.maybe_raw("files", host.json("/event/files").as_deref());
    Ok(mapped.with_context(context.finish()))
}

/// The bot user of the app, if the app is installed as one. Mentions of the app contain its id.
fn app(host: &impl Host) -> Option<String> {
    // An event comes with "at most one authorization".
    let is_bot = host.scalar("/authorizations/0/is_bot").as_deref() == Some("true");
    host.scalar("/authorizations/0/user_id").filter(|user| is_bot && !user.is_empty())
}

/// Whether a bot caused the event, this app included. Bots get no answers: two bots that answer each other
/// would never stop.
fn from_a_bot(host: &impl Host) -> bool {
    let is_there = |pointer: &str| host.json(pointer).is_some_and(|value| value != "null");
    let app = app(host);
    let is_of_app = |pointer: &str| app.is_some() && host.scalar(pointer) == app;
    is_there("/event/bot_id")
        || is_there("/event/bot_profile")
        || is_of_app("/event/user")
        // File events have this member instead.
        || is_of_app("/event/user_id")
}

/// Whether the event is a new message by a user. Edited and deleted messages, and those that Slack itself
/// writes ("joined the channel"), have other subtypes.
fn says_something_new(host: &impl Host) -> bool {
    matches!(
        host.scalar("/event/subtype").as_deref(),
        None | Some("file_share" | "thread_broadcast" | "me_message")
    )
}

/// The place of an event, which is also where the answer goes.
pub(crate) struct Place {
    pub(crate) channel: String,
    pub(crate) thread: Option<String>,
    /// The user who alone sees the conversation, if the channel does not.
    only_for: Option<String>,
}

impl Place {
    pub(crate) fn of_event(host: &impl Host) -> Option<Self> {
        let at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
        let channel = at("/event/channel").or_else(|| at("/event/item/channel"))?;
        // A direct conversation is one thread, except for Slack threads that users opened in it.
        let direct = at("/event/channel_type").as_deref() == Some("im");
        let thread = at("/event/thread_ts").or_else(|| {
            let own = at("/event/ts").or_else(|| at("/event/item/ts"));
            own.filter(|_| !direct)
        });
        Some(Self { channel, thread, only_for: None })
    }

    pub(crate) fn of_interaction(payload: &str) -> Option<Self> {
        let at = |path: &str| within(payload, path);
        let channel = at("container.channel_id").or_else(|| at("channel.id"))?;
        let thread = at("container.thread_ts")
            .or_else(|| at("message.thread_ts"))
            .or_else(|| at("container.message_ts"))
            .or_else(|| at("message.ts"));
        // An interaction without a message is visible only to the user who opened it.
        let only_for = at("user.id").filter(|_| thread.is_none());
        Some(Self { channel, thread, only_for })
    }

    /// The place of a slash command. Only its user sees a command and, by default, its answer: the
    /// conversation is then with that user, not with the channel.
    fn of_command(host: &impl Host) -> Result<Option<Self>, Failure> {
        let at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
        let (channel, user) = (at("/channel_id"), at("/user_id"));
        let is_seen = RESPONSE_TYPE.read(host)? == "in_channel";
        Ok(match (channel, user) {
            (Some(channel), _) if is_seen => Some(Self { channel, thread: None, only_for: None }),
            (Some(channel), Some(user)) => {
                Some(Self { channel, thread: None, only_for: Some(user) })
            }
            _ => None,
        })
    }

    /// The thread's id. `None` if the workspace is unknown: another one may have a channel with this id.
    fn thread_id(&self, team: Option<&str>) -> Option<String> {
        let mut thread = format!("slack:{}:{}", team?, self.channel);
        for part in [&self.thread, &self.only_for].into_iter().flatten() {
            thread.push(':');
            thread.push_str(part);
        }
        Some(thread)
    }
}

fn command(host: &impl Host) -> Result<Mapped, Failure> {
    let at = |name: &str| host.scalar(&format!("/{name}")).filter(|text| !text.is_empty());
    let team = at("team_id").or_else(|| at("enterprise_id"));
    let command = at("command").unwrap_or_default();
    let text = at("text").map(|text| unescaped(text.trim())).filter(|text| !text.is_empty());
    let mut mapped = Mapped::run().with_param("prompt", text.unwrap_or_else(|| command.clone()));
    let place = Place::of_command(host)?;
    if let Some(thread) = place.and_then(|place| place.thread_id(team.as_deref())) {
        mapped = mapped.with_param("task_id", thread);
    }
    let user = at("user_id");
    if let Some(user) = &user {
        mapped = mapped.with_param("user_id", user);
    }
    // A user who repeats a command wants a second run; the trigger id then differs.
    mapped.delivery_id = at("trigger_id");
    Ok(mapped.with_context(
        Object::new()
            .string("command", &command)
            .maybe_string("team", team.as_deref())
            .maybe_string("user", user.as_deref())
            .maybe_string("user_name", at("user_name").as_deref())
            .maybe_string("channel", at("channel_id").as_deref())
            .maybe_string("channel_name", at("channel_name").as_deref())
            .finish(),
    ))
}

fn interaction(payload: &str) -> Result<Mapped, Failure> {
    let at = |path: &str| within(payload, path);
    let kind = at("type")
        .ok_or_else(|| Failure::invalid_input("the interaction's payload has no type"))?;
    if matches!(kind.as_str(), "view_closed" | "block_suggestion") {
        return Ok(Mapped::ignore());
    }
    let action =
        at("actions.0.action_id").or_else(|| at("callback_id")).or_else(|| at("view.callback_id"));
    let said = at("actions.0.value")
        .or_else(|| at("actions.0.selected_option.value"))
        .or_else(|| at("message.text").filter(|_| kind == "message_action"));
    let team = at("team.id").or_else(|| at("user.team_id")).or_else(|| at("enterprise.id"));
    let prompt = match (&said, &action) {
        (Some(said), _) => unescaped(said.trim()),
        (None, Some(action)) => format!("Slack {kind}: {action}."),
        (None, None) => format!("Slack {kind}."),
    };
    let mut mapped = Mapped::run().with_param("prompt", prompt);
    let place = Place::of_interaction(payload);
    if let Some(thread) = place.as_ref().and_then(|place| place.thread_id(team.as_deref())) {
        mapped = mapped.with_param("task_id", thread);
    }
    if let Some(user) = at("user.id") {
        mapped = mapped.with_param("user_id", user);
    }
    mapped.delivery_id = at("trigger_id");
    let values = DotPath::parse("view.state.values").ok().and_then(|path| path.find_in(payload));
    Ok(mapped.with_context(
        Object::new()
            .string("interaction", &kind)
            .maybe_string("action", action.as_deref())
            .maybe_string("value", said.as_deref())
            .maybe_string("team", team.as_deref())
            .maybe_string("user", at("user.id").as_deref())
            .maybe_string("channel", place.as_ref().map(|place| place.channel.as_str()))
            .maybe_raw("values", values.as_deref())
            .finish(),
    ))
}

/// The text without a leading mention of the app. Mentions of other users stay part of the text.
fn without_mention<'t>(text: &'t str, app: Option<&str>) -> &'t str {
    let text = text.trim();
    let behind = || {
        let (mention, rest) = text.strip_prefix("<@")?.split_once('>')?;
        // A name may follow the id: `<@U0LAN0Z89|helper>`.
        let user = mention.split('|').next()?;
        (Some(user) == app).then(|| rest.trim_start())
    };
    behind().unwrap_or(text)
}

/// Unescapes the three characters that Slack escapes ("Formatting message text").
fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
