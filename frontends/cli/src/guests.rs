//! `ringworld guests`.

use crate::args::{GuestArgs, GuestsCommand};
use crate::exit;
use ringworld_guests::{Guests, Installed, terminal_progress};

/// Runs a command about the guests' cache.
pub fn guests(command: &GuestsCommand) -> anyhow::Result<i32> {
    let guests = Guests::open()?;
    match command {
        GuestsCommand::List => list(&guests),
        GuestsCommand::Fetch(args) => {
            let GuestArgs { guest, architecture } = args;
            let installed = guests.fetch(*guest, *architecture, &mut terminal_progress())?;
            println!("{}", describe(&installed));
        }
        GuestsCommand::Path(GuestArgs { guest, architecture }) => {
            let installed = guests.installed(*guest, *architecture)?;
            println!("kernel\t{}", installed.kernel.display());
            let others = [
                ("busybox", installed.busybox),
                ("initrd", installed.initrd),
                ("modules", installed.modules),
            ];
            for (name, path) in others {
                if let Some(path) = path {
                    println!("{name}\t{}", path.display());
                }
            }
        }
        GuestsCommand::Clean => guests.clean()?,
    }
    Ok(exit::SUCCESS)
}

fn list(guests: &Guests) {
    let all = guests.list();
    if all.is_empty() {
        println!(
            "no guests in {}; fetch one with `ringworld guests fetch debian`",
            guests.folder().display()
        );
    }
    for (guest, architecture, installed) in all {
        match installed {
            Ok(installed) => println!("{}", describe(&installed)),
            Err(error) => println!("{guest} ({architecture}): {error}"),
        }
    }
}

fn describe(installed: &Installed) -> String {
    let packages = installed.packages.iter().map(|package| format!("{} {}", package.name, package.version));
    let packages = packages.collect::<Vec<_>>().join(", ");
    format!("{} ({}): {packages}", installed.guest, installed.architecture)
}
