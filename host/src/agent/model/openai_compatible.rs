//! Models behind OpenAI's chat completions API: OpenAI, Ollama, vLLM and many others. The genai library implements
//! the protocol. The address comes from the operator's settings, so it is not vetted like a plugin's egress: a model
//! on localhost is the usual case.

use std::time::Duration;

use futures::future::BoxFuture;
use genai::adapter::AdapterKind;
use genai::chat::{ChatMessage, ChatRequest, MessageContent, ToolResponse};
use genai::resolver::{AuthData, Endpoint};
use genai::{Client, ModelIden, ServiceTarget};
use secrecy::{ExposeSecret as _, SecretString};

use super::{Message, Model, ModelError, Turn, TurnRequest};
use crate::fault::Fault;
use crate::settings::ModelSettings;
use crate::trace::ToolCall;

/// The time limit for establishing a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// How much of a provider's error text is shown, in characters.
const ERROR_CHARS_MAX: usize = 300;

/// A model behind a chat completions API.
pub struct OpenaiCompatible {
    client: Client,
    base_url: String,
    model: String,
    api_key: SecretString,
}

impl OpenaiCompatible {
    /// Creates a client for this model.
    ///
    /// # Errors
    /// If an HTTP client cannot be created.
    pub fn new(settings: &ModelSettings) -> Result<Self, ModelError> {
        let ModelSettings::OpenaiCompatible { base_url, model, api_key, turn_time_max } = settings;
        let http = crate::tls::http_client()
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(*turn_time_max)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|_| ModelError {
                message: "no HTTP client could be made for the model".to_owned(),
                fault: Fault::Host,
            })?;
        // The client joins paths to it, so it must end with a slash.
        let mut base_url = base_url.to_string();
        if !base_url.ends_with('/') {
            base_url.push('/');
        }
        let client = Client::builder().with_reqwest(http).build().map_err(|_| ModelError {
            message: "no client could be made for the model".to_owned(),
            fault: Fault::Host,
        })?;
        Ok(Self { client, base_url, model: model.clone(), api_key: api_key.clone() })
    }

    fn target(&self) -> ServiceTarget {
        ServiceTarget {
            endpoint: Endpoint::from_owned(self.base_url.clone()),
            auth: AuthData::from_single(self.api_key.expose_secret()),
            model: ModelIden::new(AdapterKind::OpenAI, self.model.clone()),
        }
    }
}

impl Model for OpenaiCompatible {
    fn turn<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<Turn, ModelError>> {
        Box::pin(async move {
            let response = self
                .client
                .exec_chat(self.target(), chat_request(&request), None)
                .await
                .map_err(|error| describe(&error))?;
            let usage = response.usage.clone();
            let text = response.content.joined_texts().unwrap_or_default();
            let tool_calls = response
                .into_tool_calls()
                .into_iter()
                .map(|call| ToolCall {
                    id: call.call_id,
                    name: call.fn_name,
                    // The library rejects arguments that are not JSON, and the run fails then.
                    arguments: call.fn_arguments.to_string(),
                })
                .collect();
            let count = |tokens: Option<i32>| tokens.and_then(|tokens| u64::try_from(tokens).ok());
            Ok(Turn {
                text,
                tool_calls,
                input_tokens: count(usage.prompt_tokens),
                output_tokens: count(usage.completion_tokens),
            })
        })
    }
}

fn chat_request(request: &TurnRequest<'_>) -> ChatRequest {
    let messages = request.messages.iter().map(chat_message).collect::<Vec<_>>();
    let mut chat = ChatRequest::new(messages);
    if !request.instructions.is_empty() {
        chat = chat.with_system(request.instructions);
    }
    if request.tools.is_empty() {
        return chat;
    }
    chat.with_tools(request.tools.iter().map(|tool| {
        genai::chat::Tool::new(tool.name.clone())
            .with_description(tool.description.clone())
            .with_schema(tool.input_schema.clone())
    }))
}

fn chat_message(message: &Message) -> ChatMessage {
    match message {
        Message::User(user) => ChatMessage::user(user.fenced()),
        Message::Assistant { text, tool_calls } if tool_calls.is_empty() => {
            ChatMessage::assistant(text.clone())
        }
        Message::Assistant { text, tool_calls } => {
            let calls: Vec<_> = tool_calls
                .iter()
                .map(|call| genai::chat::ToolCall {
                    call_id: call.id.clone(),
                    fn_name: call.name.clone(),
                    fn_arguments: serde_json::from_str(&call.arguments)
                        .unwrap_or_else(|_| call.arguments.clone().into()),
                    thought_signatures: None,
                })
                .collect();
            let mut content = MessageContent::from(calls);
            if !text.is_empty() {
                content = MessageContent::from_text(text.clone()).extended(content);
            }
            ChatMessage::assistant(content)
        }
        Message::Tool { call, result, .. } => {
            ToolResponse::new(call.id.clone(), result.clone()).into()
        }
    }
}

/// Describes an error. The library's own text can contain the whole request, so only the status and the beginning of
/// the provider's response are used.
fn describe(error: &genai::Error) -> ModelError {
    let short = |text: &str| text.chars().take(ERROR_CHARS_MAX).collect::<String>();
    let message = match error {
        genai::Error::WebModelCall { webc_error, .. }
        | genai::Error::WebAdapterCall { webc_error, .. } => match webc_error {
            genai::webc::Error::ResponseFailedStatus { status, body, .. } => {
                format!("the model's server answered {status}: {}", short(body))
            }
            genai::webc::Error::Reqwest(error) if error.is_timeout() => {
                "the model's server did not answer in time".to_owned()
            }
            genai::webc::Error::Reqwest(error) if error.is_connect() => {
                "the model's server cannot be connected to".to_owned()
            }
            _ => "the model's server gave no valid answer".to_owned(),
        },
        genai::Error::HttpError { status, body, .. } => {
            format!("the model's server answered {status}: {}", short(body))
        }
        _ => "the model's answer could not be read".to_owned(),
    };
    ModelError { message, fault: Fault::Upstream }
}
