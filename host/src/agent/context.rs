//! What the model gets to see of a conversation: all of it, as long as it fits. The results of tools are cut to a
//! length, and what is left out of them is kept, for the model to read on. What no longer fits is left out, oldest first,
//! and never a call without its result.
//!
//! Nothing here depends on time or chance: the next attempt of a run, which does the same with the recorded steps, sends
//! the model the same beginning of the conversation, which its provider may have cached.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::json_length::json_length;
use super::model::{AssistantMessage, ContextSize, Message, ToolResult, UserMessage};
use crate::tool::{READ_RESULT, Tool};
use crate::trace::ToolCall;
use crate::trace::usage::Usage;

/// How many bytes of text make a token, where it is not known: fewer than usual, so that it is rather left out than
/// refused.
const BYTES_PER_TOKEN: u64 = 3;

/// The same for text that is left out.
const LEFT_OUT_BYTES_PER_TOKEN: u64 = 5;

/// A result of at most so many bytes stays: what would stand in its place is about as long.
const SHORT_RESULT_BYTES: usize = 512;

/// No text has fewer tokens than one for so many bytes. Some servers report only what no cache of theirs held.
const BYTES_PER_TOKEN_MAX: u64 = 6;

/// How much of the results of the last turn stays if nothing else can be left out, in bytes.
const LAST_RESULT_BYTES: usize = 2048;

/// The conversation as it is sent to the model.
pub(super) struct Context {
    messages: Vec<Message>,
    /// The position of the run's own input. What stands before it is the thread's earlier tasks.
    input: usize,
    /// None if the model takes a conversation of any length.
    size: Option<ContextSize>,
    result_bytes_max: usize,
    /// The bytes of instructions and tools, which every turn sends.
    fixed_bytes: usize,
    /// The tokens of the last turn's input, and its bytes.
    measured: Option<(u64, usize)>,
    /// The bytes of what no turn has sent yet.
    unsent_bytes: usize,
    /// Whether the last turn's input came from a cache of the provider, in part.
    is_cached: bool,
    /// The results that the model has not seen as a whole, by their number in the run, from 1.
    kept: BTreeMap<u32, String>,
    /// How many results there are.
    results: u32,
}

impl Context {
    /// A conversation whose last message is the run's input. `more_bytes` come with each turn besides instructions and
    /// tools.
    pub(super) fn new(
        messages: Vec<Message>,
        size: Option<ContextSize>,
        result_bytes_max: usize,
        (instructions, more_bytes): (&str, usize),
        tools: &[Tool],
    ) -> Self {
        let described = tools.iter().map(described_bytes);
        let fixed_bytes = if size.is_some() {
            instructions.len() + more_bytes + described.sum::<usize>()
        } else {
            0
        };
        let mut context = Self {
            input: messages.len().saturating_sub(1),
            messages,
            size,
            result_bytes_max,
            fixed_bytes,
            measured: None,
            unsent_bytes: 0,
            is_cached: false,
            kept: BTreeMap::new(),
            results: 0,
        };
        context.unsent_bytes = context.bytes();
        context
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The bytes of the next turn's input that no cache of the provider may hold: all of them, unless it has read from
    /// one before.
    pub(super) fn new_bytes(&self) -> usize {
        if self.is_cached { self.unsent_bytes } else { self.bytes() }
    }

    /// Counts a turn that has been taken.
    pub(super) fn measure(&mut self, usage: &Usage) {
        self.measured = usage.input().map(|tokens| (tokens, self.bytes())).or(self.measured);
        self.is_cached = usage.cache_read.is_some_and(|tokens| tokens > 0);
        self.unsent_bytes = 0;
    }

    /// Adds the turn that was measured last.
    pub(super) fn push_turn(&mut self, message: AssistantMessage) {
        self.messages.push(Message::Assistant(message));
    }

    /// Adds what the gateway asks the model for.
    pub(super) fn push_correction(&mut self, text: String) {
        let message = Message::User(UserMessage {
            prompt: Some(text),
            payload: None,
            images: Vec::new(),
            fence: String::new(),
            left_out_turns: 0,
        });
        self.unsent_bytes += message.bytes();
        self.messages.push(message);
    }

    /// Adds the results of all calls of a turn.
    pub(super) fn push_results(&mut self, results: Vec<ToolResult>) {
        let message = Message::ToolResults(results);
        self.unsent_bytes += message.bytes();
        self.messages.push(message);
    }

    /// The result of a call as the model sees it. The whole is kept if it is longer than that.
    pub(super) fn result(&mut self, call: ToolCall, text: String, is_error: bool) -> ToolResult {
        self.results = self.results.saturating_add(1);
        let number = self.results;
        if self.size.is_none() || text.len() <= self.result_bytes_max || call.name == READ_RESULT {
            return ToolResult { call, number, text, is_error };
        }
        let shown = beginning(number, &text, self.result_bytes_max);
        self.kept.insert(number, text);
        ToolResult { call, number, text: shown, is_error }
    }

    /// The answer to a call of [`READ_RESULT`].
    ///
    /// # Errors
    /// A sentence for the model.
    pub(super) fn read_result(&self, arguments: &str) -> Result<String, String> {
        let ReadResult { result, offset } =
            serde_json::from_str(arguments).map_err(|error| error.to_string())?;
        let Some(text) = self.kept.get(&result) else {
            return Err(format!(
                "there is no result {result}, or the conversation already has all of it"
            ));
        };
        let start = text.floor_char_boundary(usize::try_from(offset).unwrap_or(usize::MAX));
        let rest = text.get(start..).unwrap_or_default();
        if rest.is_empty() {
            return Err(format!("result {result} has {} bytes", text.len()));
        }
        let part = rest.get(..rest.floor_char_boundary(self.result_bytes_max)).unwrap_or(rest);
        let end = start + part.len();
        Ok(format!("[bytes {start} to {end} of {}]\n{part}", text.len()))
    }

    /// Leaves out what no longer fits. Returns a sentence about it.
    pub(super) fn fit(&mut self) -> Option<String> {
        let ContextSize { tokens } = self.size?;
        if self.tokens() <= tokens {
            return None;
        }
        // Well below the limit, so that the turns after this one find their beginning in the provider's cache.
        let goal = tokens / 5 * 3;
        let (before, mut tasks, mut results, mut turns) = (self.bytes(), 0_u32, 0_u32, 0_u32);
        while self.tokens() > goal && self.input > 0 {
            self.leave_out_task();
            tasks += 1;
        }
        let mut position = self.input + 1;
        while self.tokens() > goal && position + 1 < self.messages.len() {
            results += self.leave_out_results(position, SHORT_RESULT_BYTES, 0);
            position += 1;
        }
        // A turn and the results of its calls.
        while self.tokens() > goal && self.messages.len() > self.input + 3 {
            for message in self.messages.drain(self.input + 1..self.input + 3) {
                let Message::ToolResults(results) = message else { continue };
                results.into_iter().for_each(|result| {
                    self.kept.entry(result.number).or_insert(result.text);
                });
            }
            turns += 1;
        }
        if turns > 0 {
            self.note_left_out_turns(turns);
        }
        if self.tokens() > tokens {
            let last = self.messages.len() - 1;
            results += self.leave_out_results(last, LAST_RESULT_BYTES, LAST_RESULT_BYTES);
        }
        let bytes = before.saturating_sub(self.bytes());
        (bytes > 0).then(|| {
            format!(
                "the conversation no longer fits into {tokens} tokens (context_tokens of the model's settings): \
                 {bytes} bytes are left out ({tasks} earlier tasks, {results} results, {turns} turns)"
            )
        })
    }

    /// Leaves out the oldest of the thread's earlier tasks: its input and its answer.
    fn leave_out_task(&mut self) {
        let is_input = |message: &Message| matches!(message, Message::User(_));
        let next = self.messages.iter().skip(1).position(is_input).map_or(self.input, |at| at + 1);
        self.messages.drain(..next);
        self.input -= next.min(self.input);
    }

    /// Leaves out all but the first bytes of the results in this message that are longer than `longer_than`.
    fn leave_out_results(&mut self, position: usize, longer_than: usize, shown: usize) -> u32 {
        let Some(Message::ToolResults(results)) = self.messages.get_mut(position) else { return 0 };
        let mut left_out = 0;
        for result in results.iter_mut().filter(|result| result.text.len() > longer_than) {
            // What is kept is the whole; the text may be its beginning.
            let text = std::mem::take(&mut result.text);
            let whole = self.kept.entry(result.number).or_insert(text);
            result.text = beginning(result.number, whole, shown);
            left_out += 1;
        }
        left_out
    }

    fn note_left_out_turns(&mut self, turns: u32) {
        let Some(Message::User(input)) = self.messages.get_mut(self.input) else { return };
        input.left_out_turns = input.left_out_turns.saturating_add(turns);
    }

    fn bytes(&self) -> usize {
        self.fixed_bytes + self.messages.iter().map(Message::bytes).sum::<usize>()
    }

    /// About how many tokens the next turn's input has.
    fn tokens(&self) -> u64 {
        let count = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let bytes = self.bytes();
        match self.measured {
            None => count(bytes) / BYTES_PER_TOKEN,
            Some((tokens, then)) => {
                let more = count(bytes.saturating_sub(then)) / BYTES_PER_TOKEN;
                let less = count(then.saturating_sub(bytes)) / LEFT_OUT_BYTES_PER_TOKEN;
                let tokens = tokens.saturating_add(more).saturating_sub(less);
                tokens.max(count(bytes) / BYTES_PER_TOKEN_MAX)
            }
        }
    }
}

/// The arguments of [`READ_RESULT`].
#[derive(Deserialize)]
struct ReadResult {
    result: u32,
    #[serde(default)]
    offset: u64,
}

/// The beginning of a result, and how to read on.
fn beginning(number: u32, text: &str, bytes: usize) -> String {
    let end = text.floor_char_boundary(bytes);
    let shown = text.get(..end).unwrap_or_default();
    let gap = if shown.is_empty() { "" } else { "\n" };
    format!(
        "{shown}{gap}[result {number} has {} bytes, and the conversation has no room for more of it. To read on, call \
         {READ_RESULT} with {{\"result\": {number}, \"offset\": {end}}}]",
        text.len()
    )
}

/// The bytes of a tool's description.
fn described_bytes(tool: &Tool) -> usize {
    tool.name.len()
        + tool.description.len()
        + json_length(&tool.input_schema, usize::MAX).unwrap_or_default()
}

#[cfg(test)]
mod tests;
