//! What stands for Amazon: [`Aws`] is moto's server with the stack of aws/template.yaml, [`Ses`] takes mail and
//! publishes what became of it. Both are programs of demo/; both end when the pipe to them does, however a test ends.

use crate::gatepost::{BINARY, Home};
use crate::postfix::shipped;
use crate::wait;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// How long Python, boto3 and moto may take to start, on a machine that runs everything else at the same time.
const START: Duration = Duration::from_secs(120);

/// Python with what `.ci/venv` installs.
pub fn python() -> PathBuf {
    let target = Path::new(BINARY).ancestors().nth(2).expect("target/debug/gatepost");
    let path = target.join("venv/bin/python");
    assert!(path.exists(), "{} is not there: .ci/venv makes it, as \"make test\" does", path.display());
    path
}

/// Adds a section to gatepost.toml.
pub fn add_section(home: &Home, section: &str) {
    let mut config = fs::OpenOptions::new().append(true).open(home.config()).unwrap();
    config.write_all(section.as_bytes()).unwrap();
}

/// A program that says a line at a time, and is told one at a time.
struct Talker {
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Talker {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&said);
        // Ends with the program.
        thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line)));
        Self { child, input, said }
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Waits for the n-th line, from 0.
    fn line(&mut self, n: usize) -> String {
        wait::until("a line of the stand-in", START, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the stand-in ended with {status}");
            }
            self.said.lock().unwrap().get(n).cloned()
        })
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().expect("piped"), "{line}").expect("the stand-in listens");
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        drop(self.input.take());
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// moto's server with the stack in it.
pub struct Aws {
    talker: Talker,
    answers: usize,
    told: Value,
}

impl Aws {
    /// Starts one, with `NAME=VALUE` for parameters of the template.
    pub fn start(parameters: &[&str]) -> Self {
        let mut command = Command::new(python());
        command.arg(shipped("demo/aws-stand-in")).args(parameters);
        let mut talker = Talker::start(command);
        let told = serde_json::from_str(&talker.line(0)).expect("JSON");
        Self { talker, answers: 1, told }
    }

    /// One that tests share which change nothing in it. (Its end comes with the test process.)
    pub fn shared() -> MutexGuard<'static, Self> {
        static SHARED: LazyLock<Mutex<Aws>> = LazyLock::new(|| Mutex::new(Aws::start(&[])));
        // A test that failed leaves no harm behind.
        SHARED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it said of itself: `status`, `outputs`, `resources`, `completed`, `environment`, `account`.
    pub fn told(&self) -> &Value {
        &self.told
    }

    /// An output of the stack.
    pub fn output(&self, name: &str) -> String {
        let output = self.told["outputs"][name].as_str();
        output.unwrap_or_else(|| panic!("no {name} in {}", self.told["outputs"])).to_owned()
    }

    /// `NAME`, `VALUE` for who is to find it.
    pub fn environment(&self) -> HashMap<String, String> {
        serde_json::from_value(self.told["environment"].clone()).expect("texts")
    }

    /// Calls an operation of boto3, such as `sqs.get_queue_attributes`; it must succeed.
    pub fn call(&mut self, operation: &str, with: &Value) -> Value {
        self.talker.tell(&json!({"call": operation, "with": with}).to_string());
        let answer: Value = serde_json::from_str(&self.talker.line(self.answers)).expect("JSON");
        self.answers += 1;
        assert!(answer.get("problem").is_none(), "{operation}: {answer}");
        answer["answer"].clone()
    }

    /// All attributes of the queue whose URL is this output.
    pub fn queue(&mut self, output: &str) -> Value {
        let url = self.output(output);
        self.call("sqs.get_queue_attributes", &json!({"QueueUrl": url, "AttributeNames": ["All"]}))["Attributes"]
            .clone()
    }

    /// How many messages wait in a queue, and how many are in flight.
    pub fn depth(&mut self, output: &str) -> (u64, u64) {
        let attributes = self.queue(output);
        let number = |name: &str| attributes[name].as_str().and_then(|n| n.parse().ok()).expect("a number");
        (number("ApproximateNumberOfMessages"), number("ApproximateNumberOfMessagesNotVisible"))
    }

    /// Takes `count` bodies out of a queue.
    pub fn receive(&mut self, output: &str, count: usize) -> Vec<String> {
        let url = self.output(output);
        let mut bodies = Vec::new();
        wait::until(&format!("{count} messages in {output}"), wait::LONG, || {
            let with = json!({"QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0});
            let got = self.call("sqs.receive_message", &with);
            for message in got["Messages"].as_array().into_iter().flatten() {
                bodies.push(message["Body"].as_str().expect("a text").to_owned());
            }
            (bodies.len() >= count).then_some(())
        });
        bodies
    }
}

/// A message that SES took.
#[derive(Clone, Debug)]
pub struct Mail {
    /// What was answered: `250 Ok <id>`.
    pub id: String,
    /// The recipients.
    pub to: Vec<String>,
    /// The message, lines ended by `\n`.
    pub content: String,
}

/// The stand-in for SES.
pub struct Ses {
    talker: Talker,
    mail: TempDir,
    port: u16,
}

impl Ses {
    /// One that publishes to the topic of the stack.
    pub fn publishing_to(aws: &Aws) -> Self {
        Self::publishing_with(aws, &[])
    }

    /// The same, with further options.
    pub fn publishing_with(aws: &Aws, options: &[&str]) -> Self {
        let mut command = Command::new(python());
        command.arg(shipped("demo/ses-stand-in")).envs(aws.environment());
        command.args(["--topic-arn", &aws.output("TopicArn")]).args(options);
        Self::start(command)
    }

    /// One that writes its events into a folder, with further options.
    pub fn spooling_to(dir: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("python3");
        command.arg(shipped("demo/ses-stand-in")).arg("--spool").arg(dir).args(options);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mail = tempfile::Builder::new().prefix("gatepost-ses-").tempdir().unwrap();
        command.arg("--until-eof").arg("--mail").arg(mail.path());
        let mut talker = Talker::start(command);
        let line = talker.line(0);
        let port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("listening on PORT");
        Self { talker, mail, port }
    }

    /// Where it takes mail.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The line of main.cf that makes it the relayhost.
    pub fn relayhost(&self) -> String {
        format!("relayhost = [127.0.0.1]:{}", self.port)
    }

    /// All mail that it took.
    pub fn messages(&self) -> Vec<Mail> {
        let files = fs::read_dir(self.mail.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter_map(|path| read_mail(&path)).collect()
    }

    /// Waits for a message with this subject.
    pub fn message(&self, subject: &str) -> Mail {
        let line = format!("Subject: {subject}\n");
        wait::until(&format!("the message {subject:?} at SES"), wait::LONG, || {
            self.messages().into_iter().find(|mail| mail.content.contains(&line))
        })
    }

    /// Waits until an event of this type (`Bounce`) was published for a message; when that was.
    pub fn published(&self, kind: &str, id: &str) -> SystemTime {
        wait::until(&format!("the {kind} of {id} to be published"), wait::LONG, || {
            self.talker.said().iter().find_map(|line| {
                let (time, rest) = line.split_once(' ')?;
                let time: jiff::Timestamp = time.parse().ok()?;
                (rest == format!("{kind} {id}")).then(|| time.into())
            })
        })
    }

    /// How many events were published.
    pub fn events(&self) -> usize {
        self.talker.said().len() - 1
    }
}

/// `mail.ID`: the envelope as smtp-sink(1) writes it, then the message.
fn read_mail(path: &Path) -> Option<Mail> {
    let id = path.file_name()?.to_str()?.strip_prefix("mail.")?.to_owned();
    let text = String::from_utf8_lossy(&fs::read(path).ok()?).into_owned();
    let to = text.lines().filter_map(|line| Some(line.strip_prefix("X-Rcpt-Args: <")?.strip_suffix('>')?.to_owned()));
    Some(Mail { id, to: to.collect(), content: text })
}
