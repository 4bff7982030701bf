//! What Slack sends, and what is made of it.
//!
//! The agent does not see the payload as it is: it holds a token, and URLs with which anybody could
//! answer in the app's name.

use crate::EVENTS;
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
    /// A form whose field `payload` holds this JSON: buttons, menus, shortcuts, modals.
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

/// A text within the JSON of an interaction.
pub(crate) fn within(payload: &str, path: &str) -> Option<String> {
    let found = DotPath::parse(path).ok()?.find_in(payload)?;
    json::text(&found).filter(|text| !text.is_empty())
}

pub(crate) fn map(host: &impl Host) -> Result<Mapped, Failure> {
    if host.scalar("/ssl_check").as_deref() == Some("1") {
        // Slack looks whether the certificate of a slash command's URL is good.
        return Ok(Mapped::reply(HttpReply::new(200, "")));
    }
    let wanted = EVENTS.read(host)?;
    match Inbound::read(host) {
        Some(Inbound::Event) => event(host, &wanted),
        Some(Inbound::Command) if listed(&wanted, "command") => Ok(command(host)),
        Some(Inbound::Interaction(payload)) if listed(&wanted, "interaction") => {
            interaction(&payload)
        }
        Some(_) => Ok(Mapped::ignore()),
        None => Err(Failure::invalid_input("this is none of the requests that Slack sends")),
    }
}

fn event(host: &impl Host, wanted: &str) -> Result<Mapped, Failure> {
    let at = |pointer: &str| host.scalar(pointer);
    match at("/type").as_deref() {
        Some("url_verification") => {
            let challenge = at("/challenge")
                .ok_or_else(|| Failure::invalid_input("the handshake has no challenge"))?;
            let reply = HttpReply::new(200, challenge).with_header("content-type", "text/plain");
            return Ok(Mapped::reply(reply));
        }
        Some("event_callback") => {}
        // `app_rate_limited` and what may come.
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
    let text = at("/event/text").map(|text| plain(&text)).unwrap_or_default();
    let prompt = match talks {
        true if text.is_empty() => return Ok(Mapped::ignore()),
        true => text,
        false => format!("Slack event {kind}."),
    };
    let place = Place::of_event(host);
    let team = at("/team_id").unwrap_or_default();
    let mut mapped = Mapped::run().with_param("prompt", prompt);
    if let Some(place) = &place {
        mapped = mapped.with_param("task_id", place.thread_id(&team));
    }
    let user = at("/event/user");
    if let Some(user) = &user {
        mapped = mapped.with_param("user_id", user);
    }
    mapped.delivery_id = at("/event_id");
    let mut context = Object::new();
    context.string("event", &full).string("team", &team).maybe_string("user", user.as_deref());
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

/// Bots are not answered, this one first of all: two of them would never stop.
fn from_a_bot(host: &impl Host) -> bool {
    let user = host.scalar("/event/user");
    host.json("/event/bot_id").is_some_and(|id| id != "null")
        || host.json("/event/bot_profile").is_some_and(|profile| profile != "null")
        || (user.is_some()
            && user == host.scalar("/authorizations/0/user_id")
            && host.scalar("/authorizations/0/is_bot").as_deref() == Some("true"))
}

/// Messages that were edited, deleted, or that Slack wrote itself ("joined the channel") have a subtype.
fn says_something_new(host: &impl Host) -> bool {
    matches!(
        host.scalar("/event/subtype").as_deref(),
        None | Some("file_share" | "thread_broadcast" | "me_message")
    )
}

/// Where an event happened, and where it is answered.
pub(crate) struct Place {
    pub(crate) channel: String,
    pub(crate) thread: Option<String>,
}

impl Place {
    pub(crate) fn of_event(host: &impl Host) -> Option<Self> {
        let at = |pointer: &str| host.scalar(pointer).filter(|text| !text.is_empty());
        let channel = at("/event/channel").or_else(|| at("/event/item/channel"))?;
        // A direct conversation is one thread, unless somebody opened another within it.
        let direct = at("/event/channel_type").as_deref() == Some("im");
        let thread = at("/event/thread_ts").or_else(|| {
            let own = at("/event/ts").or_else(|| at("/event/item/ts"));
            own.filter(|_| !direct)
        });
        Some(Self { channel, thread })
    }

    pub(crate) fn of_interaction(payload: &str) -> Option<Self> {
        let at = |path: &str| within(payload, path);
        let channel = at("container.channel_id").or_else(|| at("channel.id"))?;
        let thread = at("container.thread_ts")
            .or_else(|| at("message.thread_ts"))
            .or_else(|| at("container.message_ts"))
            .or_else(|| at("message.ts"));
        Some(Self { channel, thread })
    }

    fn thread_id(&self, team: &str) -> String {
        match &self.thread {
            Some(thread) => format!("slack:{team}:{}:{thread}", self.channel),
            None => format!("slack:{team}:{}", self.channel),
        }
    }
}

fn command(host: &impl Host) -> Mapped {
    let at = |name: &str| host.scalar(&format!("/{name}")).unwrap_or_default();
    let (command, text, team) = (at("command"), plain(&at("text")), at("team_id"));
    let channel = at("channel_id");
    let prompt = if text.is_empty() { command.clone() } else { text };
    let mut mapped = Mapped::run()
        .with_param("prompt", prompt)
        .with_param("task_id", format!("slack:{team}:{channel}"))
        .with_param("user_id", at("user_id"));
    // A command that is given twice is meant twice; the trigger is another one then.
    mapped.delivery_id = host.scalar("/trigger_id");
    mapped.with_context(
        Object::new()
            .string("command", &command)
            .string("team", &team)
            .string("user", &at("user_id"))
            .string("user_name", &at("user_name"))
            .string("channel", &channel)
            .string("channel_name", &at("channel_name"))
            .finish(),
    )
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
    let team = at("team.id").or_else(|| at("user.team_id")).unwrap_or_default();
    let prompt = match (&said, &action) {
        (Some(said), _) => plain(said),
        (None, Some(action)) => format!("Slack {kind}: {action}."),
        (None, None) => format!("Slack {kind}."),
    };
    let mut mapped = Mapped::run().with_param("prompt", prompt);
    let place = Place::of_interaction(payload);
    if let Some(place) = &place {
        mapped = mapped.with_param("task_id", place.thread_id(&team));
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
            .string("team", &team)
            .maybe_string("user", at("user.id").as_deref())
            .maybe_string("channel", place.as_ref().map(|place| place.channel.as_str()))
            .maybe_raw("values", values.as_deref())
            .finish(),
    ))
}

/// The text as its writer saw it: without the mention of the app in front, and with the three
/// characters back that Slack escapes ("Formatting message text").
fn plain(text: &str) -> String {
    let text = text.trim();
    let behind_mention = text
        .strip_prefix("<@")
        .and_then(|rest| rest.split_once('>'))
        .filter(|(mention, _)| mention.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .map(|(_, rest)| rest.trim_start());
    let text = behind_mention.unwrap_or(text);
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
