//! Chromium without a screen, driven over WebDriver: what a person with a browser sees of a page, and what the page asks
//! of the network.

use crate::wait;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long Chromium may take for a step, on a machine that runs everything else at the same time.
pub const STEP: Duration = Duration::from_secs(120);

/// A browser with one tab; dropped, it ends.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

/// How often a browser is started anew that did not come up: its driver gives it a minute, which the first start on a
/// machine that has just been set up, with its disk busy, can exceed.
const STARTS: usize = 4;

impl Browser {
    /// # Panics
    /// With what the driver said each time, where none of some starts succeeds.
    pub fn start() -> Self {
        let mut said = Vec::new();
        let started = (0..STARTS).find_map(|_| Self::try_start().map_err(|why| said.push(why)).ok());
        started.unwrap_or_else(|| panic!("no browser: {said:#?}"))
    }

    fn try_start() -> Result<Self, String> {
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's package chromium-driver is installed");
        let mut said = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port =
            said.find_map(|line| line.ok()?.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok());
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({"goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}});
        let port = port.expect("chromedriver says its port");
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        let begun = browser.call("POST", "/session", &json!({"capabilities": {"alwaysMatch": wanted}}))?;
        browser.session = format!("/session/{}", begun["sessionId"].as_str().expect("a session"));
        Ok(browser)
    }

    /// Goes to an address, and waits until it is loaded.
    pub fn open(&self, address: &str) {
        self.tell("POST", "/url", &json!({"url": address}));
    }

    /// Runs the body of a function in the page; what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.tell("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression of the page is true.
    pub fn wait_until(&self, what: &str, expression: &str) {
        wait::until(what, STEP, || (self.run(&format!("return !!({expression})")) == json!(true)).then_some(()));
    }

    /// A command of the DevTools protocol.
    pub fn devtools(&self, command: &str, params: &Value) -> Value {
        self.tell("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": params}))
    }

    /// A screen of this width, in this colour scheme; all of the page fits onto it.
    pub fn screen(&self, width: u32, scheme: &str) {
        let size =
            |height: u64| json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &feature);
        self.devtools("Emulation.setDeviceMetricsOverride", &size(800));
        let height = self.run("return document.documentElement.scrollHeight").as_u64().expect("a height");
        self.devtools("Emulation.setDeviceMetricsOverride", &size(height));
    }

    /// Saves what is on the screen as PNG.
    pub fn save(&self, path: &Path) {
        let taken = self.tell("GET", "/screenshot", &Value::Null);
        let mut decoder = Command::new("base64")
            .arg("--decode")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(path).unwrap())
            .spawn()
            .expect("coreutils");
        decoder.stdin.take().expect("piped").write_all(taken.as_str().expect("an image").as_bytes()).unwrap();
        assert!(decoder.wait().unwrap().success());
    }

    /// The addresses that were asked for since the last time, but for those of the browser's own start page.
    pub fn requests(&self) -> Vec<String> {
        let sent = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            is_request.then(|| message["params"]["request"]["url"].as_str().unwrap_or_default().to_owned())
        };
        self.log("performance").iter().filter_map(sent).filter(|url| !url.starts_with("chrome://")).collect()
    }

    /// What the page, or the browser about it, complained of since the last time.
    pub fn complaints(&self) -> Vec<String> {
        self.log("browser").iter().map(|entry| entry["message"].to_string()).collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        self.tell("POST", "/se/log", &json!({"type": kind})).as_array().cloned().expect("a log")
    }

    fn tell(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("{}{path}", self.session);
        self.call(method, &path, body).unwrap_or_else(|why| panic!("{why}"))
    }

    /// WebDriver's protocol: JSON over HTTP, `value` of what comes back; or what was asked, and what went wrong.
    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver listens");
        stream.set_read_timeout(Some(STEP)).unwrap();
        let (port, length) = (self.port, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        // It keeps the connection open, whatever it was asked.
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = reader.read_line(&mut head).map_err(|e| format!("{method} {path}: {e}"))?;
            if read == 0 {
                return Err(format!("{method} {path}: the end of the connection after {head:?}"));
            }
        }
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.expect("a length")];
        reader.read_exact(&mut body).map_err(|e| format!("{method} {path}: {e}"))?;
        let body = String::from_utf8(body).expect("UTF-8");
        if !head.starts_with("HTTP/1.1 200") {
            return Err(format!("{method} {path}: {body}"));
        }
        Ok(serde_json::from_str::<Value>(&body).expect("JSON")["value"].take())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // Chromium ends with its session. In a panic the driver may be what is broken.
            let ended =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.tell("DELETE", "", &Value::Null)));
            drop(ended);
        }
        // Already ended is as good.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
