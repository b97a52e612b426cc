//! Postfix's queue, now: what `postqueue -j` lists.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How many messages wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// In all of the queues.
    pub messages: u64,
    /// By queue: `active`, `deferred`, `hold`, `incoming`, `maildrop`.
    pub by_queue: BTreeMap<String, u64>,
    /// When the oldest of them arrived, in Unix seconds.
    pub oldest: Option<i64>,
}

/// How long Postfix may take to say it: showq reads every file of the queue.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest line: one message, with as many recipients as fit; of a longer one the begin says enough.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Cron's PATH has no sbin.
const PROGRAMS: [&str; 2] = ["postqueue", "/usr/sbin/postqueue"];

/// Asks Postfix on this host.
///
/// # Errors
/// Why it cannot be asked.
pub fn queue() -> Result<Queue, String> {
    let mut child = start().map_err(|e| format!("postqueue cannot be run: {e}"))?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else { return Err("no pipe".to_owned()) };
    let (told, tell) = mpsc::channel();
    std::thread::spawn(move || {
        let queue = read(out);
        let mut said = String::new();
        let _ = err.take(MAX_LINE_BYTES).read_to_string(&mut said);
        let _ = told.send((queue, said));
    });
    let Ok((queue, said)) = tell.recv_timeout(PATIENCE) else {
        end(child);
        return Err(format!("postqueue said nothing for {} s", PATIENCE.as_secs()));
    };
    let status = child.wait().map_err(|e| format!("postqueue: {e}"))?;
    match queue {
        _ if !status.success() => Err(said.lines().next().unwrap_or("postqueue failed").to_owned()),
        Ok(queue) => Ok(queue),
        Err(error) => Err(format!("postqueue: {error}")),
    }
}

fn start() -> io::Result<Child> {
    let run = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-j").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn()
    };
    run(PROGRAMS[0]).or_else(|_| run(PROGRAMS[1]))
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// One object a line. What stands in front of the recipients is enough of it.
fn read(out: impl Read) -> io::Result<Queue> {
    #[derive(Deserialize)]
    struct Waiting {
        queue_name: String,
        arrival_time: i64,
    }
    let mut out = BufReader::new(out);
    let mut queue = Queue::default();
    let mut line = Vec::new();
    while out.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        let whole = line.ends_with(b"\n");
        if !whole {
            out.skip_until(b'\n')?;
            let recipients = memchr::memmem::find(&line, b", \"recipients\"").unwrap_or(line.len());
            line.truncate(recipients);
            line.push(b'}');
        }
        let waiting: Waiting = serde_json::from_slice(&line)?;
        queue.messages += 1;
        *queue.by_queue.entry(waiting.queue_name).or_default() += 1;
        queue.oldest = Some(queue.oldest.unwrap_or(i64::MAX).min(waiting.arrival_time));
        line.clear();
    }
    Ok(queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postqueue_lists_is_counted() {
        let head = |queue: &str, at: u32| {
            format!(
                "{{\"queue_name\": \"{queue}\", \"queue_id\": \"A1\", \"arrival_time\": {at}, \"message_size\": 1, \
                     \"forced_expire\": false, \"sender\": \"a@b\", \"recipients\": ["
            )
        };
        let many = "{\"address\": \"a@b\"}, ".repeat(10_000);
        let text = format!("{}]}}\n{}{many}]}}\n{}]}}\n", head("hold", 7), head("deferred", 5), head("hold", 9));
        let queue = read(text.as_bytes()).expect("a queue");
        assert_eq!((queue.messages, queue.oldest), (3, Some(5)));
        assert_eq!(queue.by_queue, BTreeMap::from([("hold".to_owned(), 2), ("deferred".to_owned(), 1)]));
        assert_eq!(read(&b""[..]).expect("none"), Queue::default());
        assert!(read(&b"Mail queue is empty\n"[..]).is_err());
    }
}
