//! A look at a queue that takes nothing out of it: what it says of itself, and what these credentials may do. Every call is
//! one that changes nothing: the receipt handle that is tried is none.

use super::client::connect;
use super::queue::CALL;
use super::refusal::{Kind, Refusal};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_sqs::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sqs::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::QueueAttributeName;
use jiff::Timestamp;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

/// A receipt handle that no queue gave.
const NO_HANDLE: &str = "gatepost-doctor";

/// What a queue says.
#[derive(Debug)]
pub struct Inspection {
    /// Its attributes.
    pub attributes: Result<Attributes, Trouble>,
    /// Those of its dead-letter queue, where it has one.
    pub dead_letters: Option<(String, Result<Attributes, Trouble>)>,
    /// What these credentials may not do, by the name of the action.
    pub forbidden: Vec<&'static str>,
    /// How many seconds this machine's clock is ahead of the service's.
    pub ahead: Option<i64>,
}

/// A call that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Why, in words.
    pub words: String,
    /// The service answered, and did not allow it.
    pub denied: bool,
    /// There are no credentials, or they are not accepted.
    pub credentials: bool,
}

/// Attributes of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// How many messages wait, about.
    pub waiting: u64,
    /// For how many seconds a message is kept.
    pub retention: u64,
    /// Where messages go that are received too often.
    pub dead_letter_arn: Option<String>,
}

/// Looks at the queue with this URL, on a runtime of its own.
///
/// # Errors
/// Where there is no runtime to be had.
pub fn inspect(url: &str) -> std::io::Result<Inspection> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inspection = runtime.block_on(look(url));
    // A name server that does not answer holds a thread of the runtime.
    runtime.shutdown_background();
    Ok(inspection)
}

async fn look(url: &str) -> Inspection {
    let client = connect(url).await;
    let clock = Clock::default();
    let attributes = ask(&client, url, &clock).await;
    let ahead = clock.ahead();
    let (mut dead_letters, mut may_not) = (None, Vec::new());
    if let Ok(Attributes { dead_letter_arn: Some(arn), .. }) = &attributes
        && let Some(dead) = sibling(url, arn)
    {
        let found = ask(&client, &dead, &clock).await;
        dead_letters = Some((dead, found));
    }
    if attributes.is_ok() {
        may_not = forbidden(&client, url).await;
    }
    Inspection { attributes, dead_letters, forbidden: may_not, ahead }
}

async fn ask(client: &Client, url: &str, clock: &Clock) -> Result<Attributes, Trouble> {
    let call = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
    let output = within(call.customize().interceptor(clock.clone()).send()).await?;
    let all = output.attributes.unwrap_or_default();
    let number = |name| all.get(&name).and_then(|text| text.parse().ok()).unwrap_or_default();
    let policy = all.get(&QueueAttributeName::RedrivePolicy).map_or("", String::as_str);
    let policy: HashMap<String, serde_json::Value> = serde_json::from_str(policy).unwrap_or_default();
    Ok(Attributes {
        waiting: number(QueueAttributeName::ApproximateNumberOfMessages),
        retention: number(QueueAttributeName::MessageRetentionPeriod),
        dead_letter_arn: policy.get("deadLetterTargetArn").and_then(|arn| arn.as_str()).map(str::to_owned),
    })
}

/// A delete and a change of visibility that the service can only refuse; the reason tells whether it would allow them.
async fn forbidden(client: &Client, url: &str) -> Vec<&'static str> {
    let delete = within(client.delete_message().queue_url(url).receipt_handle(NO_HANDLE).send()).await.err();
    let change = client.change_message_visibility().queue_url(url).receipt_handle(NO_HANDLE).visibility_timeout(0);
    let change = within(change.send()).await.err();
    let tried = [("sqs:DeleteMessage", delete), ("sqs:ChangeMessageVisibility", change)];
    tried.into_iter().filter(|(_, e)| e.as_ref().is_some_and(|e| e.denied)).map(|(action, _)| action).collect()
}

async fn within<T, E>(call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>) -> Result<T, Trouble>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let refusal = match tokio::time::timeout(CALL, call).await {
        Ok(Ok(output)) => return Ok(output),
        Ok(Err(error)) => Refusal::new(&error),
        Err(_) => Refusal::timeout(),
    };
    let (denied, credentials) = (refusal.kind == Kind::Denied, refusal.kind.is_about_credentials());
    Err(Trouble { words: refusal.words, denied, credentials })
}

/// The URL of another queue of the same account and region.
fn sibling(url: &str, arn: &str) -> Option<String> {
    let (account, name) = (url.rsplit_once('/')?.0, arn.rsplit_once(':')?.1);
    Some(format!("{account}/{name}"))
}

/// Takes the time out of an answer's `Date` header, also of one that refuses.
#[derive(Clone, Debug, Default)]
struct Clock(Arc<Mutex<Option<i64>>>);

impl Clock {
    fn ahead(&self) -> Option<i64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "Clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|at| at.timestamp());
        let ahead = theirs.map(|theirs| Timestamp::now().as_second() - theirs.as_second());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ahead;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_letter_queue_is_beside_the_queue() {
        let url = "https://sqs.eu-west-1.amazonaws.com/1/q";
        let arn = "arn:aws:sqs:eu-west-1:1:q-dead";
        assert_eq!(sibling(url, arn).as_deref(), Some("https://sqs.eu-west-1.amazonaws.com/1/q-dead"));
    }
}
