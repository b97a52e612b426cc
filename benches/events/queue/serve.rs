//! One connection: calls as they come, each answered as the queue's state or its trouble has it.

use super::faults::{Action, Fault, Refusal};
use super::state::Handle;
use super::wire::{self, Answer, Asked, Call, Entry, Id, Requests, Wanted};
use super::{ACCOUNT, NAME, Shared, lock};
use std::io;
use std::net::TcpStream;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The most messages of a receive and the most entries of a batch.
const MOST: usize = 10;

/// The longest poll.
const LONGEST_POLL: Duration = Duration::from_secs(20);

/// A call or an entry of a batch that is refused.
const INVALID_HANDLE: Refusal = wrong("com.amazonaws.sqs#ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid");
const NOT_IN_FLIGHT: Refusal =
    wrong("com.amazonaws.sqs#MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight");
const NO_QUEUE: Refusal = wrong("com.amazonaws.sqs#QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue");
const BATCH_LENGTH: Refusal =
    wrong("com.amazonaws.sqs#TooManyEntriesInBatchRequest", "AWS.SimpleQueueService.TooManyEntriesInBatchRequest");
const EMPTY_BATCH: Refusal = wrong("com.amazonaws.sqs#EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest");
const BAD_VALUE: Refusal = wrong("com.amazonaws.sqs#InvalidParameterValueException", "InvalidParameterValue");
const UNSUPPORTED: Refusal =
    wrong("com.amazonaws.sqs#UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation");
const NOT_DONE: Refusal = Refusal { status: 500, shape: "", code: "InternalError", sender_fault: false };

/// What the caller is to blame for.
const fn wrong(shape: &'static str, code: &'static str) -> Refusal {
    Refusal { status: 400, shape, code, sender_fault: true }
}

/// Serves until the client or the queue ends the connection.
pub fn connection(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = Requests::new(stream.try_clone()?);
    let mut answer = Answer::default();
    while let Some(call) = requests.next()? {
        answer.begin();
        let fault = match call {
            Call::Tally => {
                tally(shared, &mut answer);
                None
            }
            Call::Unknown(_) => {
                answer.refuse(UNSUPPORTED);
                None
            }
            Call::Action(action, asked) => act(shared, action, &asked, &mut answer).map(|fault| (action, fault)),
        };
        if shared.is_over() {
            break;
        }
        match fault {
            Some((_, Fault::Closes)) => break,
            Some((action, Fault::Hangs)) => {
                shared.faults.wait_out(action, Fault::Hangs);
                break;
            }
            Some((_, Fault::BreaksOff)) => {
                answer.write(&mut stream, true)?;
                break;
            }
            Some((_, Fault::Slow(time))) => std::thread::sleep(time),
            _ => {}
        }
        answer.write(&mut stream, false)?;
    }
    stream.shutdown(std::net::Shutdown::Both)
}

/// Does what is asked for, as far as the trouble lets it; gives the trouble.
fn act(shared: &Shared, action: Action, asked: &Asked, answer: &mut Answer) -> Option<Fault> {
    shared.state().count(action);
    if action == Action::ReceiveMessage {
        return receive(shared, asked, answer);
    }
    let fault = shared.faults.of(action);
    if fault.is_some() {
        shared.faults.strike();
    }
    if Action::DELETES.contains(&action) {
        announce(shared, asked);
    }
    match (fault, fault.and_then(Fault::refusal)) {
        (Some(Fault::Closes), _) => {}
        (_, Some(refusal)) => answer.refuse(refusal),
        (Some(Fault::InvalidHandle), _) if asked.entries.is_empty() => answer.refuse(INVALID_HANDLE),
        _ if !is_ours(shared, action, asked) => answer.refuse(NO_QUEUE),
        _ => do_it(shared, action, asked, answer, fault),
    }
    fault
}

fn is_ours(shared: &Shared, action: Action, asked: &Asked) -> bool {
    let path = |url: &str| url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, p)| p.to_owned());
    action == Action::GetQueueUrl || path(&asked.queue_url) == path(&shared.url)
}

fn do_it(shared: &Shared, action: Action, asked: &Asked, answer: &mut Answer, fault: Option<Fault>) {
    match action {
        Action::ReceiveMessage => {}
        Action::DeleteMessage => single(answer, delete(shared, &asked.receipt_handle)),
        Action::ChangeMessageVisibility => {
            single(answer, change_visibility(shared, &asked.receipt_handle, asked.visibility_timeout));
        }
        Action::DeleteMessageBatch => batch(asked, answer, fault, |entry, _| delete(shared, &entry.receipt_handle)),
        Action::ChangeMessageVisibilityBatch => batch(asked, answer, fault, |entry, _| {
            change_visibility(shared, &entry.receipt_handle, entry.visibility_timeout)
        }),
        Action::SendMessage => {
            answer.text("{");
            send(shared, &asked.message_body, answer);
            answer.text("}");
        }
        Action::SendMessageBatch => batch(asked, answer, fault, |entry, answer| {
            answer.text(",");
            send(shared, &entry.message_body, answer);
            Ok(())
        }),
        Action::GetQueueUrl => {
            answer.text(r#"{"QueueUrl":"#);
            answer.quoted(&shared.url);
            answer.text("}");
        }
        Action::GetQueueAttributes => attributes(shared, asked, answer),
    }
}

/// A receive that is answered once there is something, its time is over, or trouble begins.
fn receive(shared: &Shared, asked: &Asked, answer: &mut Answer) -> Option<Fault> {
    let most = asked.max_number_of_messages.unwrap_or(1);
    let wait = Duration::from_secs(asked.wait_time_seconds.unwrap_or(0));
    if !(1..=MOST).contains(&most) || wait > LONGEST_POLL {
        answer.refuse(BAD_VALUE);
        return None;
    }
    if !is_ours(shared, Action::ReceiveMessage, asked) {
        answer.refuse(NO_QUEUE);
        return None;
    }
    shared.state().waiting.push(wait.as_secs());
    let fault = poll(shared, asked, answer, most, Instant::now() + wait);
    let waiting = &mut shared.state().waiting;
    if let Some(at) = waiting.iter().position(|w| *w == wait.as_secs()) {
        waiting.swap_remove(at);
    }
    if fault.is_some() {
        shared.faults.strike();
    }
    fault
}

/// Looks, and waits for news, until there is an answer; gives the trouble that is in it.
fn poll(shared: &Shared, asked: &Asked, answer: &mut Answer, most: usize, end: Instant) -> Option<Fault> {
    let wanted = Wanted::of(asked);
    let visibility = shared.settings.out_of_sight(asked.visibility_timeout);
    let mut state = shared.state();
    loop {
        let fault = shared.faults.of(Action::ReceiveMessage);
        if fault == Some(Fault::Closes) {
            return fault;
        }
        if let Some(refusal) = fault.and_then(Fault::refusal) {
            answer.refuse(refusal);
            return fault;
        }
        if state.ready() < most {
            drop(state);
            fill(shared, most);
            state = shared.state();
        }
        let now = Instant::now();
        let (twice, wrong) = (fault == Some(Fault::Twice), fault == Some(Fault::WrongMd5));
        answer.begin();
        answer.text(r#"{"Messages":["#);
        let found = state.receive(most, (now, now + visibility), shared.settings.max_receives, twice, |delivery| {
            answer.message(delivery, &wanted, wrong);
        });
        if found > 0 {
            answer.text("]}");
            return fault;
        }
        answer.begin();
        answer.text("{}");
        if now >= end || shared.is_over() || fault == Some(Fault::Hangs) {
            return fault.filter(|fault| *fault == Fault::Hangs);
        }
        let until = state.next_return().map_or(end, |at| at.min(end));
        let pause = until.saturating_duration_since(now).max(Duration::from_millis(1));
        state = shared.news.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Has the supply make messages, outside of the state's lock; they come into the queue in its order.
fn fill(shared: &Shared, most: usize) {
    let mut supply = lock(&shared.supply);
    let Some(next) = supply.as_mut() else { return };
    let made: Vec<_> = (0..most).map_while(|_| next()).map(|body| wire::render(&body)).collect();
    let mut state = shared.state();
    for message in made {
        state.send(message);
    }
}

/// Tells the hook which messages are about to be deleted.
fn announce(shared: &Shared, asked: &Asked) {
    let Some(hook) = lock(&shared.on_delete).clone() else { return };
    let handles = asked.entries.iter().map(|e| e.receipt_handle.as_str()).chain([asked.receipt_handle.as_str()]);
    handles.filter_map(wire::handle).for_each(|handle| hook(handle.number));
}

fn delete(shared: &Shared, handle: &str) -> Result<(), Refusal> {
    let handle = known(handle)?;
    if shared.state().delete(handle) { Ok(()) } else { Err(INVALID_HANDLE) }
}

fn change_visibility(shared: &Shared, handle: &str, seconds: Option<u64>) -> Result<(), Refusal> {
    let handle = known(handle)?;
    let seconds = seconds.filter(|s| *s <= 43_200).ok_or(BAD_VALUE)?;
    let changed = shared.state().change_visibility(handle, shared.settings.out_of_sight(Some(seconds)));
    shared.news.notify_all();
    if changed { Ok(()) } else { Err(NOT_IN_FLIGHT) }
}

fn known(handle: &str) -> Result<Handle, Refusal> {
    wire::handle(handle).ok_or(INVALID_HANDLE)
}

fn send(shared: &Shared, body: &str, answer: &mut Answer) {
    let message = wire::render(body);
    let number = shared.state().send(message);
    shared.news.notify_all();
    let md5 = wire::md5_of(body);
    answer.text(&format!(r#""MessageId":"{}","MD5OfMessageBody":"{}""#, Id(number), String::from_utf8_lossy(&md5)));
}

/// The answer of an action on one message.
fn single(answer: &mut Answer, done: Result<(), Refusal>) {
    match done {
        Ok(()) => answer.text("{}"),
        Err(refusal) => answer.refuse(refusal),
    }
}

/// The answer of a batch; `each` may add fields to the entry of the answer.
fn batch(
    asked: &Asked,
    answer: &mut Answer,
    fault: Option<Fault>,
    mut each: impl FnMut(&Entry, &mut Answer) -> Result<(), Refusal>,
) {
    match asked.entries.len() {
        0 => return answer.refuse(EMPTY_BATCH),
        1..=MOST => {}
        _ => return answer.refuse(BATCH_LENGTH),
    }
    let (mut failed, mut separator) = (Vec::new(), "");
    answer.text(r#"{"Successful":["#);
    for (n, entry) in asked.entries.iter().enumerate() {
        let at = answer.body.len();
        answer.text(separator);
        answer.text(r#"{"Id":"#);
        answer.quoted(&entry.id);
        let done = match fault {
            Some(Fault::InvalidHandle) => Err(INVALID_HANDLE),
            Some(Fault::SomeFail) if n % 2 == 0 => Err(NOT_DONE),
            _ => each(entry, answer),
        };
        match done {
            Ok(()) => {
                answer.text("}");
                separator = ",";
            }
            Err(refusal) => {
                answer.body.truncate(at);
                failed.push((entry, refusal));
            }
        }
    }
    answer.text(r#"],"Failed":["#);
    for (n, (entry, refusal)) in failed.into_iter().enumerate() {
        answer.text(if n > 0 { r#",{"Id":"# } else { r#"{"Id":"# });
        answer.quoted(&entry.id);
        let Refusal { code, sender_fault, .. } = refusal;
        answer.text(&format!(r#","SenderFault":{sender_fault},"Code":"{code}","Message":"as told"}}"#));
    }
    answer.text("]}");
}

fn attributes(shared: &Shared, asked: &Asked, answer: &mut Answer) {
    let (visibility, flying, ready) = {
        let mut state = shared.state();
        (shared.settings.visibility.as_secs(), state.in_flight(Instant::now()), state.ready())
    };
    let arn = format!("arn:aws:sqs:eu-west-1:{ACCOUNT}:{NAME}");
    let redrive = shared
        .settings
        .max_receives
        .map(|most| format!(r#"{{"deadLetterTargetArn":"{arn}-dead","maxReceiveCount":{most}}}"#));
    let values = [
        ("QueueArn", Some(arn)),
        ("VisibilityTimeout", Some(visibility.to_string())),
        ("MessageRetentionPeriod", Some("345600".to_owned())),
        ("ApproximateNumberOfMessages", Some(ready.to_string())),
        ("ApproximateNumberOfMessagesNotVisible", Some(flying.to_string())),
        ("RedrivePolicy", redrive),
    ];
    let wants = |name: &str| asked.attribute_names.iter().any(|n| n == name || n == "All");
    let mut separator = r#"{"Attributes":{"#;
    for (name, value) in values {
        let Some(value) = value.filter(|_| wants(name)) else { continue };
        answer.text(separator);
        answer.quoted(name);
        answer.text(":");
        answer.quoted(&value);
        separator = ",";
    }
    answer.text(if separator == "," { "}}" } else { "{}" });
}

fn tally(shared: &Shared, answer: &mut Answer) {
    let tally = shared.state().tally();
    let micros = tally.span.as_micros();
    answer.text(&format!(
        r#"{{"sent":{},"deleted":{},"dead":{},"span_us":{micros},"calls":{:?}}}"#,
        tally.sent, tally.deleted, tally.dead, tally.calls
    ));
}
