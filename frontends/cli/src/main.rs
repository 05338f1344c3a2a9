//! The `ringworld` command.

fn main() {
    std::process::exit(ringworld::run_command());
}
