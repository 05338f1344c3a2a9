//! A client of the control socket.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection.
pub struct Client {
    from: BufReader<UnixStream>,
    to: UnixStream,
}

impl Client {
    /// Connects, as soon as the socket is there.
    pub fn connect(path: &Path) -> Self {
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > Duration::from_secs(20) => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut client = Self { from: BufReader::new(stream.try_clone().unwrap()), to: stream };
        assert!(client.read()["ringworld"]["version"].is_string());
        client
    }

    /// The next line.
    pub fn read(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The answer to a line.
    pub fn raw(&mut self, line: &str) -> Value {
        writeln!(self.to, "{line}").unwrap();
        self.read()
    }

    /// What a command returns.
    pub fn call(&mut self, command: &str, arguments: Value) -> Value {
        let answer = self.raw(&json!({ "execute": command, "arguments": arguments, "id": 5 }).to_string());
        assert_eq!(answer["id"], 5, "{answer}");
        assert!(answer.get("return").is_some(), "{command}: {answer}");
        answer["return"].clone()
    }

    /// A command whose error says this.
    #[track_caller]
    pub fn fails(&mut self, command: &str, arguments: Value, wanted: &str) {
        let answer = self.raw(&json!({ "execute": command, "arguments": arguments }).to_string());
        let text = answer["error"]["desc"].as_str().unwrap_or_default();
        assert!(text.contains(wanted), "{command}: {answer}");
    }
}
