//! A real browser, headless: Chromium, driven over its DevTools protocol through a pair of pipes.
//!
//! Pipes and not a socket, so that nothing but the standard library is needed. A machine without Chromium fails the test.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::until::{PATIENCE, until};

/// One tab of a browser that ends with the test.
pub struct Browser {
    child: Child,
    requests: File,
    answers: Receiver<Value>,
    session: Option<String>,
    number: u64,
    folder: PathBuf,
    /// What went wrong in the page: exceptions, and what the content security policy kept back.
    pub complaints: Vec<String>,
}

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success(), "{} cannot be made", path.display());
}

impl Browser {
    /// `folder` is made for it, and holds its profile.
    pub fn start(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let (requests, answers) = (folder.join("requests"), folder.join("answers"));
        make_pipe(&requests);
        make_pipe(&answers);
        // The protocol's pipes are the descriptors 3 and 4. As root, as in a container, Chromium has no sandbox.
        let there = Command::new("sh").args(["-c", "command -v chromium"]).stdout(Stdio::null()).status().unwrap();
        assert!(there.success(), "Chromium is missing: apt-get install chromium");
        let script = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run \
            --user-data-dir=\"$3\" --remote-debugging-pipe about:blank 3<\"$1\" 4>\"$2\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([&requests, &answers, &folder.join("profile")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let requests = OpenOptions::new().write(true).open(requests).unwrap();
        let mut reader = BufReader::new(File::open(answers).unwrap());
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while reader.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                let Ok(read) = serde_json::from_slice(&message) else { break };
                if sender.send(read).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut browser =
            Browser { child, requests, answers: receiver, session: None, number: 0, folder, complaints: Vec::new() };
        let tab = browser.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let attached = browser.ask("Target.attachToTarget", json!({ "targetId": tab["targetId"], "flatten": true }));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Sends a command of the protocol; gives its result.
    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut request = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).unwrap();
        loop {
            let message = self.answers.recv_timeout(PATIENCE).unwrap_or_else(|error| {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                panic!("no answer of Chromium to {method}: {error}; {log}")
            });
            self.listen(&message);
            if message["id"] == self.number {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
        }
    }

    fn listen(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(parameters["exceptionDetails"].to_string()),
            // Answers that are errors are told of here, too; the page shows them.
            Some("Log.entryAdded") if parameters["entry"]["source"] != "network" => {
                self.complaints.push(parameters["entry"].to_string());
            }
            _ => {}
        }
    }

    /// Opens a page. Its script runs on meanwhile.
    pub fn open(&mut self, url: &str) {
        self.ask("Page.navigate", json!({ "url": url }));
    }

    /// The size of the window, in pixels of CSS.
    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.ask("Emulation.setDeviceMetricsOverride", size);
    }

    /// What the user prefers: `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// What it is shown on: `screen` or `print`.
    pub fn emulate_media(&mut self, media: &str) {
        self.ask("Emulation.setEmulatedMedia", json!({ "media": media }));
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until the expression is true.
    pub async fn until(&mut self, what: &str, expression: &str) {
        until(what, async || match self.value(expression) {
            Value::Bool(true) => Ok(()),
            other => Err(format!("{other}; the page says: {}", self.value("document.body.innerText"))),
        })
        .await;
    }

    /// Clicks in the middle of the first element of a selector, as a mouse does. The page is drawn anew all the while: where it has moved
    /// just then, it is clicked at once more.
    pub fn click(&mut self, selector: &str) {
        let begin = Instant::now();
        while !self.try_click(selector) {
            assert!(begin.elapsed() < PATIENCE, "no click comes to {selector}");
        }
    }

    fn try_click(&mut self, selector: &str) -> bool {
        let place = format!(
            "(() => {{ const element = document.querySelector({}); element.scrollIntoView({{ block: 'center' }}); \
             window.is_clicked = false; \
             addEventListener('click', event => {{ window.is_clicked ||= element.contains(event.target) }}, {{ capture: true, once: true }}); \
             const box = element.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] }})()",
            json!(selector)
        );
        let place = self.value(&place);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.ask("Input.dispatchMouseEvent", event);
        }
        self.value("window.is_clicked") == true
    }

    /// Types into whatever has the focus.
    pub fn type_text(&mut self, text: &str) {
        self.ask("Input.insertText", json!({ "text": text }));
    }

    /// Presses a key that has a name: `Tab`, `Enter`.
    pub fn press(&mut self, key: &str) {
        let (code, text) = if key == "Enter" { (13, "\r") } else { (9, "") };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.ask("Input.dispatchKeyEvent", event);
        }
    }

    /// What a screen reader is told: role and name of each part of the page.
    pub fn spoken(&mut self) -> Vec<(String, String)> {
        let tree = self.ask("Accessibility.getFullAXTree", json!({}));
        let text = |node: &Value, part: &str| node[part]["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true);
        nodes.map(|node| (text(node, "role"), text(node, "name"))).collect()
    }

    /// Keeps a picture of the whole page beside the logs.
    pub fn picture(&mut self, name: &str) {
        let taken = self.ask("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let png = base64::engine::general_purpose::STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        std::fs::write(self.folder.join(format!("{name}.png")), png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session = None;
        let _ = self.requests.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for part in ["profile", "requests", "answers"] {
            let path = self.folder.join(part);
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
    }
}
