//! `ringworld cpus`.

use crate::exit;
use ringworld_x86::model::{implemented, models};

/// The width of the list.
const WIDTH: usize = 100;

/// Lists CPU models and features.
pub fn list() -> anyhow::Result<i32> {
    println!("CPU models (--cpu MODEL):");
    for (name, about) in models() {
        println!("  {name:<16} {about}");
    }
    println!("Features (--cpu MODEL,+FEATURE,-FEATURE):");
    let mut line = String::new();
    for feature in implemented().iter() {
        if line.len() + feature.name().len() >= WIDTH {
            println!(" {line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(feature.name());
    }
    println!(" {line}");
    Ok(exit::SUCCESS)
}
