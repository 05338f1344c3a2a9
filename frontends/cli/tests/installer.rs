//! Debian's installer to its first dialog, on the serial port and on the framebuffer, and keys for it.
//!
//! Half a minute each: `cargo test --release -p ringworld --test installer -- --ignored`.

mod common;

use common::client::Client;
use common::{fetched, ringworld};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A loaded host takes minutes.
const PATIENCE: Duration = Duration::from_secs(900);

/// The emulator, which ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "boots Debian's installer: half a minute, and its package"]
fn first_dialog_on_the_serial_port() {
    if !fetched("debian-installer") {
        return;
    }
    let options = ["boot", "debian-installer", "--memory", "1G", "--timeout", "900"];
    let mut installer = Running(ringworld(&options).stdout(Stdio::piped()).spawn().unwrap());
    let mut text = String::new();
    let mut output = installer.0.stdout.take().unwrap();
    let mut bytes = [0; 4096];
    while !["Select a language", "Choose the language", "English", "<Go Back>"]
        .iter()
        .all(|w| text.contains(w))
    {
        let len = output.read(&mut bytes).unwrap();
        assert!(len > 0, "the emulator has ended: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }
}

/// What the graphics card shows: rows of RGB.
struct Picture {
    width: usize,
    rows: Vec<Vec<[u8; 3]>>,
}

/// The colours of the installer's text screen: standard ones of VGA.
const GREY: [u8; 3] = [170, 170, 170];
const BLUE: [u8; 3] = [0, 0, 170];
const RED: [u8; 3] = [170, 0, 0];
const BLACK: [u8; 3] = [0, 0, 0];

impl Picture {
    fn read(path: &Path) -> Self {
        let decoder = png::Decoder::new(BufReader::new(File::open(path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let rows = pixels.chunks_exact(3 * info.width as usize);
        let row = |row: &[u8]| row.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
        Self { width: info.width as usize, rows: rows.map(row).collect() }
    }

    fn count(&self, colour: [u8; 3]) -> usize {
        self.rows.iter().flatten().filter(|pixel| **pixel == colour).count()
    }

    /// Whether it is a dialog: a grey box with black writing, on blue. Small ones take two fifths of the screen.
    fn is_dialog(&self) -> bool {
        let all = self.width * self.rows.len();
        self.count(GREY) > all / 3 && self.count(BLUE) > all / 50 && self.count(BLACK) > all / 100
    }

    /// The rows of the chosen line: those that are red over more than a fifth of the picture's width.
    fn chosen(&self) -> Vec<usize> {
        let red = |row: &[[u8; 3]]| row.iter().filter(|pixel| **pixel == RED).count();
        (0..self.rows.len()).filter(|&y| red(&self.rows[y]) > self.width / 5).collect()
    }
}

#[test]
#[ignore = "boots Debian's installer: half a minute, and its package"]
fn first_dialog_on_the_framebuffer() {
    if !fetched("debian-installer") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (socket, picture) = (folder.path().join("socket"), folder.path().join("picture.png"));
    let control = format!("unix:{}", socket.display());
    // In real time, or the screen saver comes in no time.
    let options = ["boot", "debian-installer", "--memory", "1G", "--vga", "std", "--append", "console=tty0"];
    let more = ["--time", "real", "--control", &control];
    let start = Instant::now();
    let mut installer =
        Running(ringworld(&[&options[..], &more].concat()).stdout(Stdio::null()).spawn().unwrap());
    let mut client = Client::connect(&socket);
    let mut wait_for = |client: &mut Client, wanted: &dyn Fn(&Picture) -> bool| loop {
        client.call("screendump", json!({ "file": picture.to_str().unwrap() }));
        let picture = Picture::read(&picture);
        if wanted(&picture) {
            return picture;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "no dialog: {} grey, {} blue",
            picture.count(GREY),
            picture.count(BLUE)
        );
        assert!(installer.0.try_wait().unwrap().is_none(), "the emulator has ended");
        std::thread::sleep(Duration::from_millis(500));
    };
    let languages = wait_for(&mut client, &|picture| picture.is_dialog() && picture.chosen().len() == 16);
    assert_eq!((languages.width, languages.rows.len()), (1024, 768));
    let line = languages.chosen();
    // The arrow down: the choice goes one line of text down, and nothing else of the list moves.
    client.call("send-key", json!({ "keys": [0xd0] }));
    let below = |picture: &Picture| picture.chosen() == line.iter().map(|y| y + 16).collect::<Vec<_>>();
    let moved = wait_for(&mut client, &below);
    assert!(moved.rows[..line[0]] == languages.rows[..line[0]], "what is above has changed");
    // Enter: another dialog, the countries of that language.
    client.call("send-key", json!({ "keys": [0x1c] }));
    wait_for(&mut client, &|picture| picture.is_dialog() && picture.rows[40..150] != moved.rows[40..150]);
    client.call("quit", json!({}));
}
